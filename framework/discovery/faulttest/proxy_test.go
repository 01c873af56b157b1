package faulttest_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
)

// echo answers every line with the same line until the test ends.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			all.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

func newProxy(t *testing.T, target string) *faulttest.Proxy {
	t.Helper()
	p, err := faulttest.NewProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// caller is one connection through a proxy.
type caller struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, p *faulttest.Proxy) *caller {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &caller{t, c, bufio.NewReader(c)}
}

// mustBeRefused proves that a new connection comes to nothing; it may be reset before it is known to be made.
func mustBeRefused(t *testing.T, p *faulttest.Proxy) {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	(&caller{t, c, bufio.NewReader(c)}).mustBeReset()
}

func (c *caller) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

// hear reads the next line, for as long as that may take.
func (c *caller) hear(within time.Duration) (string, error) {
	c.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		c.t.Fatal(err)
	}
	line, err := c.r.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

func (c *caller) mustHear(want string) {
	c.t.Helper()
	if got, err := c.hear(5 * time.Second); err != nil || got != want {
		c.t.Fatalf("heard %q, %v; want %q", got, err, want)
	}
}

func (c *caller) mustHearNothing() {
	c.t.Helper()
	if got, err := c.hear(200 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("heard %q, %v; want silence on an open connection", got, err)
	}
}

func (c *caller) mustBeReset() {
	c.t.Helper()
	if got, err := c.hear(5 * time.Second); !errors.Is(err, syscall.ECONNRESET) {
		c.t.Fatalf("heard %q, %v; want a reset", got, err)
	}
}

func TestAProxyIsAGoodNetworkAtFirst(t *testing.T) {
	t.Parallel()
	p := newProxy(t, echo(t))
	c := dial(t, p)
	c.say("a")
	c.mustHear("a")
	eventually(t.Context(), t, "not all bytes are counted, 2 and 2", func() bool { // it counts what it has passed on
		to, from := p.Bytes()
		return to == 2 && from == 2
	})
	if n := p.Connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	// The end of one direction is passed on, and what is under way in the other still comes.
	c.say("b")
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.mustHear("b")
	if _, err := c.hear(5 * time.Second); !errors.Is(err, io.EOF) {
		t.Errorf("the end is %v, want EOF", err)
	}
}

func TestALargeTransferPassesAProxyWhole(t *testing.T) {
	t.Parallel()
	c := dial(t, newProxy(t, echo(t)))
	text := strings.Repeat("x", 3<<20)
	var sent sync.WaitGroup
	sent.Go(func() { _, _ = io.WriteString(c, text+"\n") })
	c.mustHear(text)
	sent.Wait()
}

func TestCutResetsAndRefusesUntilHealed(t *testing.T) {
	t.Parallel()
	p := newProxy(t, echo(t))
	c := dial(t, p)
	c.say("a")
	c.mustHear("a")
	p.Cut()
	c.mustBeReset()
	mustBeRefused(t, p)
	p.Heal()
	d := dial(t, p)
	d.say("b")
	d.mustHear("b")
}

func TestResetServesNewConnections(t *testing.T) {
	t.Parallel()
	p := newProxy(t, echo(t))
	c := dial(t, p)
	c.say("a")
	c.mustHear("a")
	p.Reset()
	c.mustBeReset()
	d := dial(t, p)
	d.say("b")
	d.mustHear("b")
}

func TestABlackholeIsSilentAndLosesNothing(t *testing.T) {
	t.Parallel()
	for _, way := range []struct {
		name             string
		toTarget, fromIt bool
	}{{"to the target", true, false}, {"from the target", false, true}, {"both", true, true}} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, echo(t))
			c := dial(t, p)
			c.say("a")
			c.mustHear("a")
			p.Blackhole(way.toTarget, way.fromIt)
			c.say("b")
			c.mustHearNothing()
			if to, _ := p.Bytes(); (to == 4) == way.toTarget {
				t.Errorf("%d bytes have reached the target, which must be 2 exactly when that way is closed", to)
			}
			late := dial(t, p) // accepted, led nowhere
			late.say("c")
			late.mustHearNothing()
			p.Heal()
			c.mustHear("b")
			late.mustHear("c")
		})
	}
}

func TestWhoGivesUpInABlackholeIsNotMissedBeforeItHeals(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := newProxy(t, l.Addr().String())
	near := dial(t, p)
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := &caller{t, far, bufio.NewReader(far)}
	defer far.Close()
	p.Blackhole(true, true)
	if err := near.Conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	c.mustHearNothing()
	p.Heal()
	c.mustBeReset()
}

func TestABlackholeThatEndsInAResetForgetsWhatItKept(t *testing.T) {
	t.Parallel()
	p := newProxy(t, echo(t))
	c := dial(t, p)
	p.Blackhole(true, true)
	c.say("a")
	c.mustHearNothing()
	p.Reset()
	p.Heal()
	c.mustBeReset()
}

func TestAStrandedConnectionIsSilentForGoodAndOthersAreNot(t *testing.T) {
	t.Parallel()
	p := newProxy(t, echo(t))
	c := dial(t, p)
	c.say("a")
	c.mustHear("a")
	p.Strand()
	c.say("b")
	c.mustHearNothing()
	d := dial(t, p)
	d.say("c")
	d.mustHear("c")
	p.Heal()
	c.mustHearNothing()
	p.Reset()
	c.mustBeReset()
}

func TestDelayHoldsInBothDirections(t *testing.T) {
	t.Parallel()
	p := newProxy(t, echo(t))
	c := dial(t, p)
	p.Delay(100 * time.Millisecond)
	begin := time.Now()
	c.say("a")
	c.mustHear("a")
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("there and back took %s, want at least 200ms", took)
	}
	p.Heal()
	c.say("b")
	c.mustHear("b")
}

func TestATargetThatIsNotThereResetsItsCallers(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "127.0.0.1:1")
	mustBeRefused(t, p)
	p.SetTarget(echo(t))
	c := dial(t, p)
	c.say("a")
	c.mustHear("a")
}

func TestAProxyClosesUnderLoad(t *testing.T) {
	t.Parallel()
	p := newProxy(t, echo(t))
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for ctx.Err() == nil {
				c, err := net.Dial("tcp", p.Addr())
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "a\n")
				_, _ = c.Read(make([]byte, 2))
				_ = c.Close()
			}
		})
	}
	for p.Accepted() < 100 {
		dial(t, p).say("a")
	}
	p.Blackhole(true, false)
	p.Delay(time.Millisecond)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if n := p.Connections(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	cancel()
	all.Wait()
}
