// Why: the physical limit: one thread, epoll, no strings, a callback for each message.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define END 3
#define ROOM 65536

struct conn {
  int fd;
  char *in;
  size_t have, room;
  long count;
  uint32_t sum;
};

static char *messages;
static size_t each, total, sent;
static struct conn **conns;
static size_t open_conns;
static char *out;
static size_t out_have, out_room;

static void need(int ok, const char *what) {
  if (ok) return;
  perror(what);
  exit(1);
}

static void write_all(int fd, const char *bytes, size_t size) {
  while (size > 0) {
    ssize_t written = write(fd, bytes, size);
    if (written <= 0) return; // the load generator is gone
    bytes += written;
    size -= written;
  }
}

static void reply(const char *message, size_t size) {
  if (out_have + size + 1 > out_room) {
    out_room = 2 * (out_have + size + 1);
    need((out = realloc(out, out_room)) != NULL, "realloc");
  }
  memcpy(out + out_have, message, size);
  out[out_have + size] = END;
  out_have += size + 1;
}

static void send_to_all(long count) {
  for (; count > 0; count--) {
    for (size_t i = 0; i < open_conns; i++)
      write_all(conns[i]->fd, messages + sent, each);
    sent = (sent + each) % total;
  }
}

typedef void callback(struct conn *, const char *message, size_t size);

static void echo(struct conn *conn, const char *message, size_t size) {
  (void)conn;
  reply(message, size);
}

static void order(struct conn *conn, const char *message, size_t size) {
  (void)conn, (void)size;
  send_to_all(atol(message));
}

static void count(struct conn *conn, const char *message, size_t size) {
  if (size == 1 && *message == '?') {
    char report[64];
    reply(report, sprintf(report, "%ld %u", conn->count, conn->sum));
    conn->count = conn->sum = 0;
    return;
  }
  uint8_t first = message[0], last = message[size - 1];
  conn->count++;
  conn->sum = conn->sum * 31 + (uint32_t)size + first + 7 * last;
}

/* Reads once, answers what is whole, and keeps the rest. */
static int on_readable(struct conn *conn, callback *call) {
  if (conn->room - conn->have < ROOM) {
    conn->room = conn->room ? 2 * conn->room : ROOM;
    need((conn->in = realloc(conn->in, conn->room)) != NULL, "realloc");
  }
  ssize_t got = read(conn->fd, conn->in + conn->have, conn->room - conn->have);
  if (got <= 0) return 0;
  char *start = conn->in, *from = start + conn->have;
  char *stop = from + got, *at;
  out_have = 0;
  while ((at = memchr(from, END, stop - from)) != NULL) {
    call(conn, start, at - start);
    from = start = at + 1;
  }
  if (out_have > 0) write_all(conn->fd, out, out_have);
  conn->have = stop - start;
  memmove(conn->in, start, conn->have);
  return 1;
}

static void read_messages(const char *path) {
  FILE *file = fopen(path, "r");
  need(file != NULL, path);
  fseek(file, 0, SEEK_END);
  total = ftell(file);
  rewind(file);
  need((messages = malloc(total)) != NULL, "malloc");
  need(fread(messages, 1, total, file) == total, path);
  each = (char *)memchr(messages, END, total) - messages + 1;
}

static void watch(int poll, int fd, void *data) {
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};
  need(epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
}

static void welcome(int poll, int listener) {
  int fd = accept(listener, NULL, NULL), on = 1;
  if (fd < 0) return;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  struct conn *conn = calloc(1, sizeof *conn);
  conns = realloc(conns, (open_conns + 1) * sizeof *conns);
  need(conn != NULL && conns != NULL, "malloc");
  conn->fd = fd;
  conns[open_conns++] = conn;
  watch(poll, fd, conn);
}

static void echo_datagram(int socket) {
  static char room[ROOM];
  struct sockaddr_in from;
  socklen_t length = sizeof from;
  ssize_t size =
      recvfrom(socket, room, sizeof room, 0, (struct sockaddr *)&from, &length);
  sendto(socket, room, size, 0, (struct sockaddr *)&from, length);
}

static void forget(struct conn *conn) {
  for (size_t i = 0; i < open_conns; i++)
    if (conns[i] == conn) conns[i] = conns[--open_conns];
  close(conn->fd);
  free(conn->in);
  free(conn);
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  const char *mode = argv[1];
  int udp = strcmp(mode, "udp") == 0, on = 1, input, door;
  callback *call = *mode == 'e' ? echo : *mode == 's' ? order : count;
  read_messages(argv[3]);
  struct sockaddr_in here = {.sin_family = AF_INET,
                             .sin_port = htons(atoi(argv[2])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  need(bind(fd, (struct sockaddr *)&here, sizeof here) == 0, "bind");
  if (!udp) need(listen(fd, 1024) == 0, "listen");
  int poll = epoll_create1(0);
  watch(poll, 0, &input);
  watch(poll, fd, &door);
  puts("ready");
  fflush(stdout);
  struct epoll_event events[64];
  while (1) {
    int some = epoll_wait(poll, events, 64, -1);
    for (int i = 0; i < some; i++) {
      void *data = events[i].data.ptr;
      if (data == &input) return 0; // nothing comes there but its end
      if (data != &door) {
        if (!on_readable(data, call)) forget(data);
      } else if (udp) {
        echo_datagram(fd);
      } else {
        welcome(poll, fd);
      }
    }
  }
}
