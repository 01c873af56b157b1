package why

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// page is what this package reads of a caller's /debug/discovery.
type page struct {
	Service     string    `json:"service"`
	Incarnation string    `json:"incarnation"`
	Time        time.Time `json:"time"`
	Prefix      string    `json:"prefix"`
	Etcd        *struct {
		Endpoints  []string `json:"endpoints"`
		Connection string   `json:"connection"`
	} `json:"etcd"`
	Callees []pageCallee `json:"callees"`
}

type pageCallee struct {
	Callee     string `json:"callee"`
	Connection *struct {
		Target       string `json:"target"`
		Connectivity string `json:"connectivity"`
		Breaker      string `json:"breaker"`
	} `json:"connection"`
	Known    bool      `json:"known"`
	Revision int64     `json:"revision"`
	AsOf     time.Time `json:"as_of"`
	Began    time.Time `json:"began"`
	Error    string    `json:"error"`
	Failing  time.Time `json:"failing_since"`
	Guarding bool      `json:"guarding"`
	Held     int       `json:"held"`
	Watch    *struct {
		LastSeen time.Time `json:"last_seen"`
	} `json:"watch"`
	Instances []pageInstance `json:"instances"`
}

type pageInstance struct {
	Addr        string    `json:"addr"`
	State       string    `json:"state"`
	Used        bool      `json:"used"`
	Note        string    `json:"note"`
	Connection  string    `json:"connection"`
	Error       string    `json:"error"`
	Incarnation string    `json:"incarnation"`
	HeldUntil   time.Time `json:"held_until"`
	Ejected     string    `json:"ejected"`
	Until       time.Time `json:"ejected_until"`
	ProbeError  string    `json:"probe_error"`
}

// of returns what a page says of a callee; nil when its process does not call it.
func (p *page) of(callee string) *pageCallee {
	for n := range p.Callees {
		if c := &p.Callees[n]; c.Callee == callee && c.Connection != nil {
			return c
		}
	}
	return nil
}

// callees are the services that the page's process calls.
func (p *page) callees() []string {
	var out []string
	for _, c := range p.Callees {
		if c.Connection != nil {
			out = append(out, c.Callee)
		}
	}
	return out
}

// maxPage bounds what is read of an admin server.
const maxPage = 32 << 20

// ask fetches the page of the process whose admin server listens at admin, host:port or a URL.
func ask(ctx context.Context, admin string) (*page, error) {
	url := admin
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/debug/discovery?format=json", http.NoBody)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{DisableKeepAlives: true} // no proxy: it is a machine of ours
	defer t.CloseIdleConnections()
	res, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, res.Status)
	}
	p := new(page)
	if err := json.NewDecoder(io.LimitReader(res.Body, maxPage)).Decode(p); err != nil {
		return nil, fmt.Errorf("%s is no admin server of newsvc: %w", url, err)
	}
	return p, nil
}
