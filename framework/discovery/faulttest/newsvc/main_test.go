package newsvc_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/discovery/faulttest/newsvc"
	"github.com/newsvc/newsvc/framework/internal/backoff"
)

const (
	adapterLate    = "late"    // its calls return too late
	adapterHanging = "hanging" // its Dial does not return
	lateness       = 300 * time.Millisecond
)

// binaries are the programs of subjects: the plain one for everything real, and this test for the fakes.
type binaries struct{ subject string }

// built is set once, by TestMain; there is no other way from there to the tests.
var built binaries

func TestMain(m *testing.M) {
	if code, ran := faulttest.Main(fakes()...); ran {
		os.Exit(code)
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "newsvc-subject-")
	if err == nil {
		built.subject = filepath.Join(dir, "subject")
		var out []byte
		out, err = exec.CommandContext(context.Background(), "go", "build", "-o", built.subject, "./internal/subject").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the subject:", err)
		return 1
	}
	code := m.Run()
	if err := errors.Join(os.RemoveAll(dir), goleak.Find()); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// fakes are adapters that misbehave where the suite has to notice.
func fakes() []faulttest.Adapter {
	keys := func(service string) string { return "/" + service + "/" }
	return []faulttest.Adapter{
		{Name: adapterLate, Keys: keys, Dial: func(context.Context, faulttest.DialConfig) (faulttest.Conn, error) {
			return lateConn{}, nil
		}},
		{Name: adapterHanging, Keys: keys, Dial: func(ctx context.Context, _ faulttest.DialConfig) (faulttest.Conn, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}},
	}
}

// lateConn fails each call when its deadline has long passed.
type lateConn struct{}

func (lateConn) Invoke(ctx context.Context, _ string, _, _ any, _ ...grpc.CallOption) error {
	<-ctx.Done()
	_ = backoff.Sleep(context.WithoutCancel(ctx), lateness)
	return status.FromContextError(ctx.Err()).Err()
}

func (lateConn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no streams here")
}

func (lateConn) Close() error { return nil }

// newLab makes a lab that ends with the test and shows what its processes wrote when that failed.
func newLab(t *testing.T, binary string) *faulttest.Lab {
	t.Helper()
	logs, err := os.Create(filepath.Join(t.ArtifactDir(), "subjects.log"))
	if err != nil {
		t.Fatal(err)
	}
	lab, err := faulttest.NewLab(faulttest.LabOptions{Binary: binary, Dir: t.TempDir(), Log: logs, Adapters: newsvc.Adapters()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(lab.Close(), logs.Close()); err != nil {
			t.Error(err)
		}
		if text, err := os.ReadFile(logs.Name()); t.Failed() && err == nil {
			t.Logf("the processes wrote:\n%s", text[max(0, len(text)-20000):])
		}
	})
	return lab
}
