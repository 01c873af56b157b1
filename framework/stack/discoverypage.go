package stack

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// serveDiscovery answers in JSON, or in text for people: with ?format=text, or when the Accept header names a kind of
// text, as that of a browser does.
func (s *Stack) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	page := s.discoveryNow()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if wantsText(r) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, page.text()) // the peer is gone; there is nobody left to tell
		return
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(page) // the same
}

func wantsText(r *http.Request) bool {
	switch r.URL.Query().Get("format") {
	case "text":
		return true
	case "json":
		return false
	}
	accept := r.Header.Get("Accept")
	return !strings.Contains(accept, "application/json") && strings.Contains(accept, "text/")
}

// text is the page for people.
func (p discoveryPage) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, incarnation %s, at %s\n", p.Service, p.Incarnation, p.Time.Format(time.RFC3339))
	if p.Etcd != nil {
		fmt.Fprintf(&b, "etcd at %s, connection %s, prefix %s\n", strings.Join(p.Etcd.Endpoints, ", "), p.Etcd.Connection, p.Prefix)
	}
	b.WriteString("\nREGISTRATION\n")
	p.Registration.writeTo(&b)
	for _, c := range p.Callees {
		fmt.Fprintf(&b, "\nCALLEE %s\n", c.Callee)
		c.writeTo(&b)
	}
	return b.String()
}

func (v *registrationView) writeTo(b *strings.Builder) {
	if v == nil {
		b.WriteString("  none\n")
		return
	}
	fmt.Fprintf(b, "  %s for %s, announced %d times, address %s\n", v.State, since(v.Since), v.Count, v.Addr)
	if v.Key != "" {
		fmt.Fprintf(b, "  key %s\n", v.Key)
	}
	if v.Lease != "" {
		fmt.Fprintf(b, "  lease %s, ends in %.1fs if it is not renewed\n", v.Lease, v.LeaseRemain)
	}
	if v.Error != "" {
		fmt.Fprintf(b, "  error: %s\n", v.Error)
	}
}

func (p *calleePage) writeTo(b *strings.Builder) {
	if c := p.Connection; c != nil {
		fmt.Fprintf(b, "  target %s, connection %s, %d running calls\n", c.Target, c.Connectivity, c.RunningCalls)
	}
	switch {
	case p.Began.IsZero():
		b.WriteString("  not looked up\n")
	case !p.Known:
		fmt.Fprintf(b, "  below %s; asked for %s, no answer yet\n", p.Key, since(p.Began))
	case p.Error != "":
		fmt.Fprintf(b, "  below %s; revision %d, as of %s ago, failing for %s\n", p.Key, p.Revision, since(p.AsOf), since(p.Failing))
	default:
		fmt.Fprintf(b, "  below %s; revision %d, up to date, last change %s ago\n", p.Key, p.Revision, since(p.Changed))
	}
	for _, l := range []struct{ label, text string }{
		{"error", p.Error}, {"watch", p.Watch.String()}, {"guard", p.guardText()}, {"why nobody takes calls", p.Why}, {"did you mean", strings.Join(p.DidYouMean, ", ")},
	} {
		if l.text != "" {
			fmt.Fprintf(b, "  %s: %s\n", l.label, l.text)
		}
	}
	if len(p.Instances) > 0 {
		writeInstances(b, p.Instances)
	}
}

func (p *calleePage) guardText() string {
	switch {
	case p.Guarding:
		return fmt.Sprintf("%d that vanished without draining are held in use", p.Held)
	case p.Held > 0:
		return fmt.Sprintf("%d vanished without draining and are remembered", p.Held)
	}
	return ""
}

// String is the watch in a line; empty without one.
func (w *watchView) String() string {
	if w == nil {
		return ""
	}
	var lists []string
	for _, reason := range slices.Sorted(maps.Keys(w.Lists)) {
		if n := w.Lists[reason]; n > 0 {
			lists = append(lists, fmt.Sprintf("%s %d", reason, n))
		}
	}
	text := fmt.Sprintf("last word from etcd %s ago; listed: %s", since(w.LastSeen), strings.Join(lists, ", "))
	if w.Missed > 0 {
		text += fmt.Sprintf("; missed %d changes, which a list found", w.Missed)
	}
	if w.BadCount > 0 {
		text += fmt.Sprintf("; %d values can't be read: %s", w.BadCount, strings.Join(w.Unreadable, ", "))
	}
	return text
}

func writeInstances(b *strings.Builder, instances []instanceView) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) {
		for n, c := range cells {
			if c == "" {
				cells[n] = "-"
			}
		}
		_, _ = fmt.Fprintln(t, "  "+strings.Join(cells, "\t")) // a strings.Builder takes everything
	}
	row("ADDRESS", "STATE", "CONNECTION", "VERSION", "ZONE", "WEIGHT", "INCARNATION", "NOTE")
	for _, i := range instances {
		note, weight := i.Note, ""
		if i.Error != "" {
			note = strings.TrimPrefix(note+"; "+i.Error, "; ")
		}
		if i.Weight > 0 {
			weight = fmt.Sprint(i.Weight)
		}
		row(i.Addr, string(i.State), i.Connection, i.Version, i.Zone, weight, i.Incarnation, note)
	}
	_ = t.Flush()
}
