package clitest_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// bin holds newsvc and golangci-lint, built once.
var bin string

func wanted() bool { return os.Getenv("NEWSVC_TEST_CLI") == "1" }

func TestMain(m *testing.M) {
	if wanted() {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if bin != "" {
			code = max(code, boolToCode(os.RemoveAll(bin)))
		}
		os.Exit(code)
	}))
}

func boolToCode(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func prepare() error {
	// With -trimpath the framework is compiled once for all projects, wherever they lie, and once for all runs of the tests.
	if err := os.Setenv("GOFLAGS", strings.TrimSpace(os.Getenv("GOFLAGS")+" -trimpath")); err != nil {
		return err
	}
	var err error
	if bin, err = os.MkdirTemp("", "newsvc-clitest-"); err != nil {
		return err
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		return err
	}
	// newsvc remembers the path of its checkout, which -trimpath would take away.
	return errors.Join(
		run(root, "go", "build", "-trimpath=false", "-o", filepath.Join(bin, "newsvc"), "./cmd/newsvc"),
		run(root, "go", "build", "-modfile=tools/lint/go.mod", "-o", filepath.Join(bin, "golangci-lint"), "github.com/golangci/golangci-lint/v2/cmd/golangci-lint"),
		run(root, "go", "build", "-modfile=tools/buf/go.mod", "-o", filepath.Join(bin, "buf"), "github.com/bufbuild/buf/cmd/buf"),
	)
}

func run(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}
