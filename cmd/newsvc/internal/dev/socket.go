package dev

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
)

// socket is a public listening socket that each process of a slot inherits, so that no connection is refused while one takes
// the place of another. It is safe for concurrent use.
type socket struct {
	configured string

	mu   sync.Mutex
	file *os.File // nil once it was let go of
}

// lend gives the file to use, which stays open until it does not need it any longer; nil when there is none.
func (s *socket) lend(use func(*os.File) error) error {
	if s == nil {
		return use(nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return use(s.file)
}

// close lets go of the socket. Processes have copies: who connects is refused once the last of them has closed its own.
func (s *socket) close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close()
	}
	s.file = nil
}

func (s *socket) open() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file != nil
}

// socket is the one that the process in slot i inherits; nil when it does not serve HTTP, or has to open one by itself.
func (u *unit) socket(ctx context.Context, i int) *socket {
	want, have := u.settings().http, u.sockets[i]
	if have.open() && want == have.configured {
		return have
	}
	if want == "" {
		u.sockets[i] = nil
		return nil
	}
	host, port, err := net.SplitHostPort(want)
	if err != nil {
		return nil // the service says it better
	}
	if host == "" {
		host = "127.0.0.1" // nobody else is to reach a developer's machine
	}
	if i > 0 {
		port = "0"
	}
	f, where, err := listen(ctx, net.JoinHostPort(host, port))
	if err != nil {
		return nil
	}
	if _, got, err := net.SplitHostPort(where); err == nil && got != port && port != "0" {
		u.out.say(u.name, fmt.Sprintf("port %s is in use, so HTTP is at http://%s", port, where))
	}
	u.sockets[i] = &socket{configured: want, file: f}
	return u.sockets[i]
}

// keepSocket takes back what a program was to have that does not run.
func (u *unit) keepSocket(i int, previous *socket) {
	if previous != u.sockets[i] {
		u.sockets[i].close()
		u.sockets[i] = previous
	}
}

// closeSockets lets go of the ports.
func (u *unit) closeSockets() {
	for _, s := range u.sockets {
		s.close()
	}
}
