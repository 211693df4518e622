// Why: the other end of every comparison and its only clock, the same to all
// sides: C, so that it is not what limits them. `load.ts` does the same where
// there is no `cc`. A line of stdin is a command, a line of JSON on stdout its result.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define END 3
#define WRITE_BYTES 262144L
#define PATIENCE_S 30

/* Positions are in bytes, in the messages of the file sent again and again. */
struct conn {
  int fd;
  long sent, got;
};

static char *cycle;
static long cycle_bytes, each;
static struct conn *conns;
static int wanted, opened, listener = -1, poll_fd = -1;
static long wrong;
static double *times;
static char room[1 << 20];

static void need(int ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "load: %s\n", what);
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void read_file(const char *path) {
  FILE *file = fopen(path, "r");
  need(file != NULL, "no such file");
  fseek(file, 0, SEEK_END);
  long once = ftell(file), repeats = (WRITE_BYTES + once - 1) / once;
  rewind(file);
  cycle_bytes = once * repeats;
  need((cycle = malloc(cycle_bytes)) != NULL, "malloc");
  need(fread(cycle, 1, once, file) == (size_t)once, "cannot read the file");
  for (long i = 1; i < repeats; i++) memcpy(cycle + i * once, cycle, once);
  each = (char *)memchr(cycle, END, once) - cycle + 1;
}

static void write_all(int fd, const char *bytes, long size) {
  while (size > 0) {
    long written = write(fd, bytes, size);
    need(written > 0, "the side is gone");
    bytes += written;
    size -= written;
  }
}

/* Sends the next bytes of the cycle. */
static void give(struct conn *conn, long size) {
  while (size > 0) {
    long at = conn->sent % cycle_bytes, some = cycle_bytes - at;
    if (some > size) some = size;
    if (some > WRITE_BYTES) some = WRITE_BYTES;
    write_all(conn->fd, cycle + at, some);
    conn->sent += some;
    size -= some;
  }
}

/* Receives, and checks, the next bytes of the cycle. */
static void take(struct conn *conn) {
  long size = read(conn->fd, room, sizeof room);
  need(size > 0, "the side is gone");
  for (long done = 0; done < size;) {
    long at = conn->got % cycle_bytes, some = cycle_bytes - at;
    if (some > size - done) some = size - done;
    if (memcmp(room + done, cycle + at, some) != 0) wrong += some;
    conn->got += some;
    done += some;
  }
}

static struct sockaddr_in address(int port) {
  return (struct sockaddr_in){.sin_family = AF_INET,
                              .sin_port = htons(port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void add(int fd) {
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  struct conn *conn = &conns[opened++];
  conn->fd = fd;
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
  need(epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
}

/* From any port, unless it is told which. */
static int dial(int port, int type, int from) {
  struct sockaddr_in to = address(port), here = address(from);
  int fd = socket(AF_INET, type, 0);
  if (from > 0) need(bind(fd, (void *)&here, sizeof here) == 0, "cannot bind");
  need(connect(fd, (void *)&to, sizeof to) == 0, "cannot connect");
  return fd;
}

static void open_all(int port, int count, const char *how) {
  int udp = *how == 'u', from = count; // UDP: on the port of our own
  if (udp) count = 1;
  conns = calloc(count, sizeof *conns);
  poll_fd = epoll_create1(0);
  wanted = count;
  if (*how == 'l') { // listen
    struct sockaddr_in here = address(port);
    int on = 1;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    need(bind(listener, (void *)&here, sizeof here) == 0, "cannot bind");
    need(listen(listener, 16) == 0, "cannot listen");
  } else if (udp) {
    struct timeval patience = {.tv_sec = 2};
    add(dial(port, SOCK_DGRAM, from));
    setsockopt(conns->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  } else {
    while (opened < count) {
      add(dial(port, SOCK_STREAM, 0));
      if (opened % 50 == 0) usleep(10000); // the listener's queue is short
    }
  }
}

static int upwards(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void answer(double start, long count, const char *reply) {
  printf("{\"seconds\":%.9f,\"count\":%ld,\"wrong\":%ld", now() - start, count,
         wrong);
  if (reply != NULL) printf(",\"reply\":\"%s\"", reply);
  if (times != NULL && count > 0) {
    qsort(times, count, sizeof *times, upwards);
    printf(",\"median\":%.3f,\"p99\":%.3f", 1e6 * times[count / 2],
           1e6 * times[count * 99 / 100]);
  }
  puts("}");
}

/* Sends messages as fast as they go, and asks what arrived. */
static void blast(long count) {
  struct conn *conn = &conns[opened - 1];
  char report[64] = "";
  double start = now();
  conn->sent = 0;
  give(conn, count * each);
  write_all(conn->fd, "?\3", 2);
  for (size_t have = 0; have == 0 || report[have - 1] != END;) {
    long some = read(conn->fd, report + have, sizeof report - have);
    need(some > 0, "the side is gone");
    have += some;
  }
  *strchr(report, END) = 0;
  answer(start, count, report);
}

/* Waits until a connection has something to read, and takes it. */
static int take_some(struct epoll_event *events, int most) {
  if (opened == 1) {
    events[0].data.ptr = conns;
    take(conns);
    return 1;
  }
  int some = epoll_wait(poll_fd, events, most, -1);
  for (int i = 0; i < some; i++) take(events[i].data.ptr);
  return some;
}

/* So many messages there and back, with so many in flight on each connection. */
static void window(long count, long in_flight) {
  struct epoll_event events[256];
  long per = count / opened * each, ahead = in_flight * each, left = opened;
  int timed = opened == 1 && in_flight == 1;
  if (timed) need((times = malloc(count * sizeof *times)) != NULL, "malloc");
  long base = conns->got, done = 0; // the same for all connections
  double start = now(), last = start;
  for (int i = 0; i < opened; i++) give(&conns[i], ahead < per ? ahead : per);
  while (left > 0) {
    int some = take_some(events, 256);
    for (int i = 0; i < some; i++) {
      struct conn *conn = events[i].data.ptr;
      long got = conn->got - base, sent = conn->sent - base;
      if (timed && got % each == 0) {
        double t = now();
        times[done++] = t - last;
        last = t;
      }
      if (got == per) left--;
      long may = got / each * each + ahead;
      if (may > per) may = per;
      if (may > sent) give(conn, may - sent);
    }
  }
  answer(start, count, NULL);
}

/* Orders so many messages, which all connections receive. */
static void order(long count) {
  struct epoll_event events[256];
  char text[32];
  long base = conns->got, left = opened;
  double start = now();
  write_all(conns->fd, text, sprintf(text, "%ld\3", count));
  while (left > 0) {
    int some = take_some(events, 256);
    for (int i = 0; i < some; i++) {
      struct conn *conn = events[i].data.ptr;
      if (conn->got - base == count * each) left--;
    }
  }
  answer(start, count * opened, NULL);
}

/* So many datagrams there and back, one in flight. */
static void datagrams(long count) {
  need((times = malloc(count * sizeof *times)) != NULL, "malloc");
  double start = now(), last = start;
  for (long i = 0; i < count; i++) {
    char *message = cycle + i * each % cycle_bytes;
    need(write(conns->fd, message, each - 1) == each - 1, "cannot send");
    long got = read(conns->fd, room, sizeof room);
    need(got > 0, "a datagram did not come back");
    if (got != each - 1 || memcmp(room, message, got) != 0) wrong++;
    double t = now();
    times[i] = t - last;
    last = t;
  }
  answer(start, count, NULL);
}

int main(void) {
  char line[1024], name[16], how[16], path[900];
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  while (fgets(line, sizeof line, stdin) != NULL) {
    long a = 0, b = 0;
    sscanf(line, "%15s %ld %ld %15s %899s", name, &a, &b, how, path);
    alarm(PATIENCE_S); // ends this process, should the side hang
    while (listener >= 0 && opened < wanted) {
      int fd = accept(listener, NULL, NULL);
      need(fd >= 0, "cannot accept");
      add(fd);
    }
    wrong = 0;
    if (strcmp(name, "open") == 0) {
      read_file(path);
      open_all(a, b, how);
      answer(now(), opened, NULL);
    } else if (strcmp(name, "blast") == 0) {
      blast(a);
    } else if (strcmp(name, "window") == 0) {
      window(a, b);
    } else if (strcmp(name, "order") == 0) {
      order(a);
    } else if (strcmp(name, "datagrams") == 0) {
      datagrams(a);
    } else { // touch: a message on each connection
      for (int i = 0; i < opened; i++) write_all(conns[i].fd, "hello\3", 6);
      answer(now(), opened, NULL);
    }
    free(times);
    times = NULL;
    fflush(stdout);
    alarm(0);
  }
  return 0;
}
