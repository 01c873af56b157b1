package dev

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	tallyEvery    = 100 * time.Millisecond
	scrapeTimeout = time.Second
)

// tally counts the calls of a service while its processes are replaced. All numbers are what the processes themselves say in
// their metrics: callers of the calls that they made, the service of those that it served.
type tally struct {
	unit   *unit
	client *http.Client
	began  time.Time
	all    sync.WaitGroup

	mu     sync.Mutex
	before map[int]counts // by process
	last   map[int]counts
	cut    []string
	gone   int
}

// counts are numbers of calls; requests of HTTP are calls that were served.
type counts struct{ made, madeFailed, served, servedFailed float64 }

func newTally(ctx context.Context, u *unit) *tally {
	t := &tally{unit: u, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: scrapeTimeout}, began: time.Now(), last: map[int]counts{}}
	t.look(ctx, t.processes())
	t.before, t.last = t.last, map[int]counts{}
	return t
}

// processes are those that serve now.
func (t *tally) processes() []*process {
	var all []*process
	for _, u := range t.unit.peers() {
		for _, s := range u.slots {
			if p := s.process(); p != nil && p.isUp() && !p.isDone() {
				all = append(all, p)
			}
		}
	}
	return all
}

// look asks each process for its numbers. Who does not answer has said the last time what he knows.
func (t *tally) look(ctx context.Context, all []*process) {
	for _, p := range all {
		if p.info.Admin == "" {
			continue
		}
		c, err := t.scrape(ctx, p.info.Admin)
		if err == nil {
			t.mu.Lock()
			t.last[p.pid] = c
			t.mu.Unlock()
		}
	}
}

// retire is told of a process that is about to stop; watch counts until it has ended.
func (t *tally) retire(old *process) (watch func()) {
	t.all.Add(1)
	return func() { defer t.all.Done(); t.watch(old) }
}

func (t *tally) watch(old *process) {
	tick := time.NewTicker(tallyEvery)
	defer tick.Stop()
	for !old.isDone() {
		t.look(t.unit.force, append(t.processes(), old))
		select {
		case <-old.done:
		case <-tick.C:
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gone++
	if old.cut() {
		t.cut = append(t.cut, fmt.Sprintf("%s (pid %d) did not finish its work: %s", old.label, old.pid, old.how()))
	}
}

// finish tells, once the old processes are gone, what became of the calls. It does not wait.
func (t *tally) finish() {
	t.unit.tails.Go(func() {
		t.all.Wait()
		t.look(t.unit.force, t.processes())
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.gone == 0 {
			return
		}
		t.unit.out.say(t.unit.name, fmt.Sprintf("the previous version is gone after %s%s", short(time.Since(t.began)), t.calls()))
		for _, line := range t.cut {
			t.unit.out.say(t.unit.name, "  "+line)
		}
	})
}

// calls says how many there were, and how many failed: as callers saw it, if callers run here. It is empty without any.
func (t *tally) calls() string {
	var sum counts
	for pid, c := range t.last {
		b := t.before[pid]
		sum.made += c.made - b.made
		sum.madeFailed += c.madeFailed - b.madeFailed
		sum.served += c.served - b.served
		sum.servedFailed += c.servedFailed - b.servedFailed
	}
	if sum.made == 0 && sum.served == 0 {
		return ""
	}
	if sum.made > 0 {
		return fmt.Sprintf("; %.0f of %.0f calls during the change failed", sum.madeFailed, sum.made)
	}
	return fmt.Sprintf("; %.0f of %.0f calls during the change failed", sum.servedFailed, sum.served)
}

// scrape reads one process' metrics.
func (t *tally) scrape(ctx context.Context, admin string) (counts, error) {
	var c counts
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", http.NoBody)
	if err != nil {
		return c, err
	}
	res, err := t.client.Do(req)
	if err != nil {
		return c, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return c, fmt.Errorf("%s of %s", res.Status, admin)
	}
	return count(res.Body, t.unit.name)
}

// count reads the numbers of calls to a service from metrics in Prometheus' text format.
func count(r io.Reader, callee string) (counts, error) {
	var c counts
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, rest, ok := strings.Cut(lines.Text(), "{")
		if !ok || !strings.Contains(rest, `callee="`+callee+`"`) {
			continue
		}
		labels, value, _ := strings.Cut(rest, "} ")
		n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			continue // of a family that is none of ours
		}
		switch name {
		case "grpc_client_call_duration_seconds_count":
			c.made += n
			if says(labels, "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS") {
				c.madeFailed += n
			}
		case "grpc_server_call_duration_seconds_count":
			c.served += n
			if says(labels, "UNKNOWN", "INTERNAL", "DATA_LOSS") { // what was refused is repeated elsewhere
				c.servedFailed += n
			}
		case "http_server_request_duration_seconds_count":
			c.served += n
			if strings.Contains(labels, `http_response_status_code="5`) {
				c.servedFailed += n
			}
		}
	}
	return c, lines.Err()
}

// says reports whether the status among the labels is one of these.
func says(labels string, statuses ...string) bool {
	for _, s := range statuses {
		if strings.Contains(labels, `grpc_status="`+s+`"`) {
			return true
		}
	}
	return false
}
