// Why: what a Go programmer would write: net, bufio.Scanner, and a goroutine for
// each connection.

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
)

const (
	end       = 0x03
	roomBytes = 65536
	maxBytes  = 2 << 20
)

var (
	mode     string
	messages [][]byte // each with its terminator
	lock     sync.Mutex
	conns    = map[net.Conn]bool{}
	sent     int
)

// sendToAll writes so many messages to every connection.
func sendToAll(count int) {
	lock.Lock()
	defer lock.Unlock()
	for i := 0; i < count; i++ {
		for conn := range conns {
			conn.Write(messages[sent%len(messages)])
		}
		sent++
	}
}

// tally counts messages and sums up what they are and their order.
type tally struct {
	count int
	sum   uint32
}

// answer is the callback of a message: its reply, or none.
func (t *tally) answer(message string) (string, bool) {
	switch {
	case mode == "echo":
		return message, true
	case mode == "send":
		count, _ := strconv.Atoi(message)
		sendToAll(count)
		return "", false
	case message == "?":
		report := fmt.Sprintf("%d %d", t.count, t.sum)
		*t = tally{}
		return report, true
	}
	t.count++
	first, last := message[0], message[len(message)-1]
	t.sum = t.sum*31 + uint32(len(message)) + uint32(first) + 7*uint32(last)
	return "", false
}

// split finds the next message.
func split(data []byte, _ bool) (int, []byte, error) {
	if at := bytes.IndexByte(data, end); at >= 0 {
		return at + 1, data[:at], nil
	}
	return 0, nil, nil
}

// flushing sends the replies so far before it reads on.
type flushing struct {
	io.Reader
	writer *bufio.Writer
}

func (f flushing) Read(room []byte) (int, error) {
	if err := f.writer.Flush(); err != nil {
		return 0, err
	}
	return f.Reader.Read(room)
}

func serve(conn net.Conn) {
	lock.Lock()
	conns[conn] = true
	lock.Unlock()
	writer := bufio.NewWriterSize(conn, roomBytes)
	scanner := bufio.NewScanner(flushing{conn, writer})
	scanner.Buffer(make([]byte, 0, roomBytes), maxBytes)
	scanner.Split(split)
	var counts tally
	for scanner.Scan() {
		if reply, ok := counts.answer(scanner.Text()); ok {
			writer.WriteString(reply)
			writer.WriteByte(end)
		}
	}
	lock.Lock()
	delete(conns, conn)
	lock.Unlock()
	conn.Close()
}

func echoDatagrams(socket *net.UDPConn) {
	room := make([]byte, roomBytes)
	for {
		size, sender, err := socket.ReadFromUDPAddrPort(room)
		must(err)
		socket.WriteToUDPAddrPort(room[:size], sender)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	mode = os.Args[1]
	content, err := os.ReadFile(os.Args[3])
	must(err)
	messages = bytes.SplitAfter(content, []byte{end})
	messages = messages[:len(messages)-1]
	here := "127.0.0.1:" + os.Args[2]
	if mode == "udp" {
		address, _ := net.ResolveUDPAddr("udp4", here)
		socket, err := net.ListenUDP("udp4", address)
		must(err)
		go echoDatagrams(socket)
	} else {
		listener, err := net.Listen("tcp4", here)
		must(err)
		go func() {
			for {
				conn, err := listener.Accept()
				must(err)
				go serve(conn)
			}
		}()
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}
