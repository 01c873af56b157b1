package main_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal: what a process writes to the second file is read from the first.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

// TestWhatTakesLongSaysSo has a plugin that works until newsvc has told whoever looks on what it waits for.
func TestWhatTakesLongSaysSo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := func(stderr *os.File, args ...string) error {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "newsvc"), args...)
		cmd.Dir, cmd.Stderr, cmd.Env = dir, stderr, append(os.Environ(), "GOPROXY=off")
		return cmd.Run()
	}
	if err := run(nil, "create", "web", "--no-verify"); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, "web")
	config := filepath.Join(dir, "buf.gen.yaml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	plugin := `  - local: ["sh", "-c", "i=0; while [ ! -e said ] && [ $i -lt 600 ]; do sleep 0.05; i=$((i+1)); done"]` + "\n    out: out\n"
	if err := os.WriteFile(config, append(text, plugin...), 0o600); err != nil {
		t.Fatal(err)
	}

	master, slave := terminal(t)
	done := make(chan error, 1)
	go func() {
		done <- run(slave, "generate")
		_ = slave.Close() // with which the reader below ends
	}()
	var lines []string
	for in := bufio.NewScanner(master); in.Scan(); {
		lines = append(lines, strings.TrimSpace(in.Text()))
		if len(lines) == 1 {
			if err := os.WriteFile(filepath.Join(dir, "said"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []string{
		"wait      the plugins of buf.gen.yaml are at work; what go tool has to build first takes a while", "0 updated, 2 unchanged",
	}
	if err := <-done; err != nil || strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("newsvc generate ended with %v and said\n%s\nwant\n%s", err, strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}
