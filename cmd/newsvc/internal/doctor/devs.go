package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
)

// running compares what newsvc dev runs on this machine with what is registered: a process that is stopped stays in the record,
// and out of the registry once its lease has ended.
func running(ctx context.Context, r Registry, all []*registered) []Finding {
	var found []Finding
	for _, d := range r.Records {
		if d.Etcd.Prefix != r.Prefix {
			continue
		}
		for _, service := range slices.Sorted(maps.Keys(d.Services)) {
			for _, i := range d.Services[service].Instances {
				there := slices.ContainsFunc(all, func(k *registered) bool { return k.service == service && k.addr == i.GRPC })
				if f, is := unregistered(service, i, there); is && devrecord.Alive(i.PID) && (f.Level == Fail || !keepsOut(ctx, i.Admin)) {
					found = append(found, f)
				}
			}
		}
	}
	return found
}

func unregistered(service string, i devrecord.Instance, there bool) (Finding, bool) {
	stopped := devrecord.Stopped(i.PID)
	f := Finding{Check: "dev", Level: Fail, At: i.GRPC, Fix: fmt.Sprintf("kill -CONT %d", i.PID)}
	what := fmt.Sprintf("%s (pid %d), which newsvc dev runs, ", service, i.PID)
	switch {
	case stopped && (there || i.GRPC == ""): // an HTTP edge is never registered
		f.What = what + "is stopped (SIGSTOP, a debugger) and answers nothing"
	case stopped:
		f.What = what + "is stopped (SIGSTOP, a debugger), so its lease has ended and nobody finds it any more"
	case !there && i.GRPC != "":
		f.What, f.Level = what+"is not registered", Warn
		f.Fix = "newsvc why " + service
	default:
		return f, false
	}
	if f.At == "" {
		f.At = i.HTTP
	}
	return f, true
}

// keepsOut reports whether a process says that it is not meant to be registered (registration.enabled: false).
func keepsOut(ctx context.Context, admin string) bool {
	if admin == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/debug/discovery?format=json", http.NoBody)
	if err != nil {
		return false
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var page struct {
		Service      string          `json:"service"`
		Registration json.RawMessage `json:"registration"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, 32<<20)).Decode(&page)
	return err == nil && page.Service != "" && page.Registration == nil
}
