package problem_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

func TestPrintShape(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"whole", &problem.Error{What: "no etcd", At: "127.0.0.1:2379", Fix: "newsvc dev"}, "newsvc: no etcd\n   at: 127.0.0.1:2379\n  fix: newsvc dev\n"},
		{"only what", &problem.Error{What: "no etcd"}, "newsvc: no etcd\n"},
		{"any error", errors.New("disk full"), "newsvc: disk full\n"},
		{"nil", nil, ""},
		{"silent", &problem.Error{Exit: 130}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			problem.Print(&b, tc.err)
			if b.String() != tc.want {
				t.Errorf("Print wrote %q, want %q", b.String(), tc.want)
			}
		})
	}
}

func TestCode(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{&problem.Error{What: "x"}, 1},
		{&problem.Error{What: "x", Exit: problem.Conflict}, 4},
		{fmt.Errorf("while: %w", &problem.Error{What: "x", Exit: problem.Usage}), 2},
	} {
		if got := problem.Code(tc.err); got != tc.want {
			t.Errorf("Code(%v) = %d, want %d", tc.err, got, tc.want)
		}
	}
}

func TestCauseIsFound(t *testing.T) {
	t.Parallel()
	if err := error(&problem.Error{What: "x", Err: fs.ErrExist}); !errors.Is(err, fs.ErrExist) {
		t.Error("the cause is not found by errors.Is")
	}
}

func TestPrintJSON(t *testing.T) {
	t.Parallel()
	whole := &problem.Error{What: `no etcd "here" && there`, At: "127.0.0.1:2379", Fix: "newsvc dev", Exit: problem.Environment}
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"whole", whole, `{"error":{"what":"no etcd \"here\" && there","at":"127.0.0.1:2379","fix":"newsvc dev","exit":3}}` + "\n"},
		{"wrapped", fmt.Errorf("call user: %w", whole), `{"error":{"what":"call user: no etcd \"here\" && there","at":"127.0.0.1:2379","fix":"newsvc dev","exit":3}}` + "\n"},
		{"any error", errors.New("disk full"), `{"error":{"what":"disk full","at":"","fix":"","exit":1}}` + "\n"},
		{"nil", nil, ""},
		{"silent", &problem.Error{Exit: 4}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			problem.PrintJSON(&b, tc.err)
			if b.String() != tc.want {
				t.Errorf("PrintJSON wrote %s, want %s", b.String(), tc.want)
			}
		})
	}
}
