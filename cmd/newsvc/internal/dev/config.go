package dev

import (
	"bufio"
	"context"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// configWait is how long a service has to read a changed configuration: it looks at its files every two seconds.
const configWait = 10 * time.Second

// isConfig reports whether a file is the service's configuration, which it follows by itself.
func (u *unit) isConfig(path string) bool {
	ok, _ := filepath.Match("config*.yaml", filepath.Base(path))
	return ok && filepath.Dir(path) == u.dir
}

// configured waits until a running instance has read its changed configuration, and restarts the service when that says that
// some of it takes a restart.
func (u *unit) configured(ctx context.Context, path string) {
	ctx, cancel := context.WithTimeout(ctx, configWait)
	defer cancel()
	for pause(ctx, 4*tallyEvery) {
		for _, s := range u.slots {
			if i, ok := s.instance(); ok && i.Admin != "" && pendingKeys(ctx, i.Admin) > 0 {
				u.due(shown(u.root, path)+" (keys that take a restart)", true)
				return
			}
		}
	}
}

// pendingKeys is how many changed keys an instance says take effect with a restart.
func pendingKeys(ctx context.Context, admin string) float64 {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", http.NoBody)
	if err != nil {
		return 0
	}
	req.Close = true
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return 0
	}
	defer func() { _ = res.Body.Close() }()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "newsvc_config_pending_keys "); ok {
			n, _ := strconv.ParseFloat(value, 64)
			return n
		}
	}
	return 0
}
