package dev

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
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

// isMarker reports whether a file is the service's newsvc.yaml.
func (u *unit) isMarker(path string) bool { return path == filepath.Join(u.dir, markerFile) }

// configured says what is wrong with a changed configuration, if something is: then the processes go on with the one that they
// have. Else it waits until they have read it, and restarts the service when one says that some of it takes a restart, or when
// one does not run, perhaps for want of just this change.
func (u *unit) configured(ctx context.Context, path string) {
	ctx, cancel := context.WithTimeout(ctx, configWait)
	defer cancel()
	if problems := u.problems(ctx); len(problems) > 0 {
		u.out.say(u.name, shown(u.root, path)+" can't be used; "+u.settingsStay())
		for _, line := range problems {
			u.out.say(u.name, "  "+line)
		}
		return
	}
	for waits := u.failing(); pause(ctx, 4*tallyEvery); waits = u.failing() {
		if waits {
			u.reloads(due{reasons: []string{shown(u.root, path)}, restart: true})
			return
		}
		for _, s := range u.slots {
			if i, ok := s.instance(); ok && i.Admin != "" && pendingKeys(ctx, i.Admin) > 0 {
				u.reloads(due{reasons: []string{shown(u.root, path) + " (keys that take a restart)"}, restart: true})
				return
			}
		}
	}
}

func (u *unit) settingsStay() string {
	if u.serves() {
		return "the processes keep the settings that they have"
	}
	return u.meanwhile()
}

// failing reports whether an instance does not get to serve.
func (u *unit) failing() bool {
	return slices.ContainsFunc(u.slots, func(s *slot) bool { return s.failing.Load() })
}

// problems are what the program that runs says of the configuration as it is written now, with names of files that can be opened
// from where newsvc dev runs.
func (u *unit) problems(ctx context.Context) []string {
	binary := u.binary()
	if binary == "" {
		return nil
	}
	_, err := u.introspect(ctx, binary, "config")
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || ctx.Err() != nil {
		return nil
	}
	var lines []string
	for line := range strings.Lines(string(exit.Stderr)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), u.name+": ")
		if strings.HasPrefix(line, "config") && strings.Contains(line, ".yaml") {
			line = filepath.Join(shown(u.root, u.dir), line)
		}
		lines = append(lines, line)
	}
	return lines
}

// binary is what runs in the first slot, or is to.
func (u *unit) binary() string {
	if len(u.slots) == 0 {
		return ""
	}
	s := u.slots[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.program.path
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
