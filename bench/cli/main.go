// Command cli measures what newsvc itself takes, with warm caches: help, create with its build, generate, and under
// newsvc dev the time from a save to the first answer of the new version. It reports; nothing is asserted about speed.
// The last line is for machines.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const service = "blogger-user"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	newsvc string // the binary
	dir    string // scratch
	env    []string
	out    io.Writer
}

func run(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("cli", flag.ContinueOnError)
	rounds := fs.Int("rounds", 5, "how often each is measured; the median counts")
	saves := fs.Int("saves", 5, "saves under newsvc dev; 0 leaves reload out")
	if err := fs.Parse(args); err != nil {
		return err
	}
	root, err := filepath.Abs("..")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "newsvc-bench-cli-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b := &bench{newsvc: filepath.Join(dir, "bin", "newsvc"), dir: dir, out: out, env: append(os.Environ(), "GOWORK=off", "XDG_CACHE_HOME="+filepath.Join(dir, "cache"), "GOCACHE="+goEnv(ctx, "GOCACHE"))}
	if err := b.exec(ctx, root, "go", "build", "-o", b.newsvc, "./cmd/newsvc"); err != nil {
		return err
	}
	help, err := b.median(4**rounds, func(int) error { return b.exec(ctx, dir, b.newsvc, "--help") })
	if err != nil {
		return err
	}
	b.line("newsvc --help", help, 50*time.Millisecond, "")
	if err := b.exec(ctx, dir, b.newsvc, "create", "warm", "-q"); err != nil { // fills the build cache
		return err
	}
	create, err := b.median(*rounds, func(i int) error {
		return b.exec(ctx, dir, b.newsvc, "create", service, "-q", "-C", mkdir(dir, fmt.Sprint("create", i)))
	})
	if err != nil {
		return err
	}
	b.line("newsvc create, go build included", create, 10*time.Second, "")
	project := filepath.Join(dir, "create0", service)
	generate, err := b.median(*rounds, func(i int) error {
		if err := change(filepath.Join(project, "proto/blogger_user/v1/service.proto"), fmt.Sprintf("\nmessage Round%d {}\n", i)); err != nil {
			return err
		}
		return b.exec(ctx, project, b.newsvc, "generate", "-q")
	})
	if err != nil {
		return err
	}
	b.line("newsvc generate", generate, time.Second, "")
	machine := fmt.Sprintf("CLI help_ms=%d create_ms=%d generate_ms=%d", help.Milliseconds(), create.Milliseconds(), generate.Milliseconds())
	if *saves > 0 {
		r, err := b.reload(ctx, project, *saves)
		if err != nil {
			return err
		}
		b.line("save to new version serving", r.total, r.build+2*time.Second, fmt.Sprintf("; %v of it go build, so %v besides", r.build.Round(time.Millisecond), (r.total-r.build).Round(time.Millisecond)))
		machine += fmt.Sprintf(" reload_ms=%d reload_build_ms=%d", r.total.Milliseconds(), r.build.Milliseconds())
	}
	fmt.Fprintln(out, machine)
	return nil
}

func (b *bench) line(what string, took, expected time.Duration, more string) {
	fmt.Fprintf(b.out, "%-34s %9v   expected under %v%s\n", what, took.Round(time.Millisecond), expected.Round(time.Millisecond), more)
}

// median runs do so often and returns the median of what it took.
func (b *bench) median(rounds int, do func(int) error) (time.Duration, error) {
	var all []time.Duration
	for i := range rounds {
		began := time.Now()
		if err := do(i); err != nil {
			return 0, err
		}
		all = append(all, time.Since(began))
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

func (b *bench) exec(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(slices.Clone(b.env), "PWD="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func goEnv(ctx context.Context, key string) string {
	out, err := exec.CommandContext(ctx, "go", "env", key).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func mkdir(elem ...string) string {
	dir := filepath.Join(elem...)
	_ = os.MkdirAll(dir, 0o755) // what follows fails if it is not there
	return dir
}

// change appends to a file, in one write.
func change(name, text string) error {
	old, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(old, text...), 0o644)
}
