//go:build unix

package coordination_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/coordination"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// data is where subjects write, each write under its leadership.
const data = "/coordination-test/data"

// subject is a process that leads and, while it does, writes its token. It tells on its standard output what it does:
// "lead TOKEN", "lost TOKEN" when its context ended, "refused TOKEN" when a write was refused.
func subject(endpoint string) error {
	cli, err := newClient(endpoint)
	if err != nil {
		return err
	}
	c, err := coordination.New(cli, coordination.Options{TTL: ttl, CallTimeout: time.Second})
	if err != nil {
		return err
	}
	return c.Lead(context.Background(), "process", func(ctx context.Context, h *coordination.Hold) error {
		fmt.Println("lead", h.Token())
		write := func(ctx context.Context) {
			if _, err := h.Commit(ctx, clientv3.OpPut(data, strconv.FormatInt(h.Token(), 10))); errors.Is(err, coordination.ErrLost) {
				fmt.Println("refused", h.Token())
			}
		}
		for backoff.Sleep(ctx, 5*time.Millisecond) == nil {
			write(ctx)
		}
		fmt.Println("lost", h.Token())
		write(context.WithoutCancel(ctx)) // as somebody does who does not look
		return nil
	})
}

// process is a subject that runs.
type process struct {
	cmd   *exec.Cmd
	lines chan string
}

func startProcess(t *testing.T, endpoint string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.CommandContext(context.WithoutCancel(t.Context()), exe), lines: make(chan string, 1000)}
	p.cmd.Env = append(os.Environ(), subjectEtcd+"="+endpoint)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reader := loop.Start(context.WithoutCancel(t.Context()), func(context.Context) {
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	})
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-reader.Done()
		_ = p.cmd.Wait()
	})
	return p
}

// says waits for a line that begins with a word, and returns its token.
func (p *process) says(t *testing.T, word string) int64 {
	t.Helper()
	for {
		got, token, _ := strings.Cut(until(t, word, p.lines), " ")
		if got != word {
			continue
		}
		n, err := strconv.ParseInt(token, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func TestAKilledLeaderIsReplacedWhenItsLeaseEnds(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	p := startProcess(t, e.Addr())
	token := p.says(t, "lead")
	c, cli := instance(t, e.Addr(), nil)
	k := lead(t, c, "process")
	eventually(t, "the candidate waits", func() bool { return len(keys(t, cli, "leader", "process")) == 2 })
	began := time.Now()
	p.signal(t, syscall.SIGKILL)
	h := until(t, "the next term", k.terms)
	took := time.Since(began)
	t.Logf("replaced after %v at a TTL of %v", took, ttl)
	if h.Token() <= token || took < ttl/3 || took > 10*ttl {
		t.Errorf("token %d after %d, after %v", h.Token(), token, took)
	}
}

// A process that was frozen beyond its lease goes on where it was: its context ends as soon as it runs again, and what
// it still writes is refused, since its token is not the last one.
func TestALeaderThatThawsLearnsThatItsTimeIsOver(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	cli := connect(t, e.Addr())
	frozen := startProcess(t, e.Addr())
	stale := frozen.says(t, "lead")
	frozen.signal(t, syscall.SIGSTOP)
	next := startProcess(t, e.Addr())
	token := next.says(t, "lead")
	eventually(t, "its write", func() bool { return written(t, cli) == token })
	frozen.signal(t, syscall.SIGCONT)
	if got := frozen.says(t, "lost"); got != stale {
		t.Errorf("it lost term %d, want %d", got, stale)
	}
	if got := frozen.says(t, "refused"); got != stale {
		t.Errorf("refused was %d, want %d", got, stale)
	}
	neverBack(t, cli)
}

func written(t *testing.T, cli *clientv3.Client) int64 {
	t.Helper()
	got, err := cli.Get(limit(t), data)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(string(got.Kvs[0].Value), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// neverBack looks through all that was ever written: no token after a higher one. It returns how many there were.
func neverBack(t *testing.T, cli *clientv3.Client) (terms int) {
	t.Helper()
	now, err := cli.Get(limit(t), data)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(limit(t))
	defer cancel()
	last := int64(0)
	for resp := range cli.Watch(ctx, data, clientv3.WithRev(1)) {
		if err := resp.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.Events {
			token, err := strconv.ParseInt(string(e.Kv.Value), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if token < last {
				t.Fatalf("token %d was written after %d", token, last)
			}
			if token > last {
				terms++
			}
			last = token
			if e.Kv.ModRevision >= now.Kvs[0].ModRevision {
				return terms
			}
		}
	}
	t.Fatal("the watch ended")
	return terms
}

// Whatever happens to the processes, the storage sees one after the other.
func TestTheStorageNeverSeesTwoLeadersMixed(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	cli := connect(t, e.Addr())
	ps := []*process{startProcess(t, e.Addr()), startProcess(t, e.Addr()), startProcess(t, e.Addr())}
	for round := range 3 {
		leader, token := leading(t, cli, ps)
		eventually(t, "a write of the leader", func() bool { return written(t, cli) >= token })
		if round == 1 {
			ps[leader].signal(t, syscall.SIGKILL)
			ps[leader] = startProcess(t, e.Addr())
		} else {
			ps[leader].signal(t, syscall.SIGSTOP)
		}
		eventually(t, "another one's write", func() bool { return written(t, cli) > token })
		if round != 1 {
			ps[leader].signal(t, syscall.SIGCONT)
			ps[leader].says(t, "lost")
			ps[leader].says(t, "refused")
		}
	}
	if terms := neverBack(t, cli); terms < 4 {
		t.Errorf("%d terms wrote, want 4 or more", terms)
	}
}

// leading finds the process that leads now, by what etcd says and by its own words.
func leading(t *testing.T, cli *clientv3.Client, ps []*process) (which int, token int64) {
	t.Helper()
	c, err := coordination.New(cli, coordination.Options{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a leader", func() bool {
		h, held, err := c.Leader(t.Context(), "process")
		if err != nil || !held {
			return false
		}
		for n, p := range ps {
			if strings.HasSuffix(h.Identity, "/"+strconv.Itoa(p.cmd.Process.Pid)) {
				which, token = n, h.Token
				return true
			}
		}
		return false
	})
	return which, token
}
