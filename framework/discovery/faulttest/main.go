package faulttest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// roleEnv names the variable by which a process learns that it is a subject; its value is a role as JSON.
const roleEnv = "NEWSVC_FAULTTEST_ROLE"

// role is what a subject is told when it starts. Exactly one of its parts is set.
type role struct {
	Member *memberRole `json:"member,omitempty"`
	Server *serverRole `json:"server,omitempty"`
	Client *clientRole `json:"client,omitempty"`
}

// player is a part of [role]. run says hello over the line when it is ready, answers questions there and returns when
// ctx ends, which it does at SIGTERM and when the suite is gone.
type player interface {
	run(ctx context.Context, adapters []Adapter, l *line) error
}

// Main gives the suite the first word in a program that uses it: in main, or in TestMain, before anything else. When
// the process is a subject (a member of etcd, a server or a client that a [Lab] started) it plays that role until it is
// told to end, and ran is true: the program must then exit with code. Otherwise nothing happened and ran is false.
//
// adapters are those that the program knows; subjects pick theirs by name.
func Main(adapters ...Adapter) (code int, ran bool) {
	text := os.Getenv(roleEnv)
	if text == "" {
		return 0, false
	}
	// What the subject starts is not the subject.
	if err := os.Unsetenv(roleEnv); err != nil {
		return complain(err), true
	}
	var r role
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return complain(fmt.Errorf("read the role in %s: %w", roleEnv, err)), true
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := r.play(ctx, adapters); err != nil {
		return complain(err), true
	}
	return 0, true
}

func (r role) play(ctx context.Context, adapters []Adapter) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p, err := r.player()
	if err != nil {
		return err
	}
	return p.run(ctx, adapters, openLine(os.Stdin, os.Stdout, cancel))
}

func (r role) player() (player, error) {
	switch {
	case r.Member != nil:
		return r.Member, nil
	case r.Server != nil:
		return r.Server, nil
	case r.Client != nil:
		return r.Client, nil
	}
	return nil, fmt.Errorf("the role in %s names nothing to play", roleEnv)
}

func complain(err error) int {
	fmt.Fprintf(os.Stderr, "faulttest: %v\n", err)
	return 1
}

// adapterNamed picks a subject's adapter.
func adapterNamed(adapters []Adapter, name string) (Adapter, error) {
	for _, a := range adapters {
		if a.Name == name {
			return a, nil
		}
	}
	return Adapter{}, fmt.Errorf("no adapter is called %q; give it to faulttest.Main in the program that is the lab's binary", name)
}
