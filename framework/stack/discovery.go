package stack

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

// discoveryPage is what /debug/discovery shows.
type discoveryPage struct {
	Service      string            `json:"service"`
	Incarnation  string            `json:"incarnation"`
	Time         time.Time         `json:"time"`
	Prefix       string            `json:"prefix"`
	Etcd         *etcdView         `json:"etcd,omitempty"`
	Registration *registrationView `json:"registration,omitempty"`
	Callees      []*calleePage     `json:"callees"`
}

// etcdView is the process' connection to etcd. With several endpoints gRPC does not tell which of them is in use.
type etcdView struct {
	Endpoints  []string `json:"endpoints"`
	Connection string   `json:"connection"`
}

type registrationView struct {
	Key         string                      `json:"key,omitempty"`
	Addr        string                      `json:"addr"`
	State       discovery.RegistrationState `json:"state"`
	Error       string                      `json:"error,omitempty"`
	Since       time.Time                   `json:"since"`
	Count       int                         `json:"count"`
	Lease       string                      `json:"lease,omitempty"` // as etcdctl writes it
	LeaseEnds   time.Time                   `json:"lease_ends,omitzero"`
	LeaseRemain float64                     `json:"lease_remaining_seconds"`
}

// calleePage is what is known of one callee.
type calleePage struct {
	Callee     string         `json:"callee"`
	Key        string         `json:"key"` // what all keys of its instances begin with
	Connection *client.State  `json:"connection,omitempty"`
	Known      bool           `json:"known"` // false until etcd has answered once
	Revision   int64          `json:"revision"`
	Staleness  float64        `json:"staleness_seconds"` // 0 while etcd is being followed
	AsOf       time.Time      `json:"as_of,omitzero"`
	Changed    time.Time      `json:"changed,omitzero"`
	Began      time.Time      `json:"began,omitzero"`
	Error      string         `json:"error,omitempty"`
	Failing    time.Time      `json:"failing_since,omitzero"`
	Guarding   bool           `json:"guarding"`
	Held       int            `json:"held"`
	Watch      *watchView     `json:"watch,omitempty"`
	Instances  []instanceView `json:"instances"`
	Why        string         `json:"why,omitempty"` // why nobody takes calls
	DidYouMean []string       `json:"did_you_mean,omitempty"`
}

// watchView is how the watch of one service is doing.
type watchView struct {
	LastSeen   time.Time      `json:"last_seen,omitzero"`
	Lag        float64        `json:"lag_seconds"`
	Lists      map[string]int `json:"lists"`
	Missed     int            `json:"missed"`
	Unreadable []string       `json:"unreadable_keys,omitempty"`
	BadCount   int            `json:"unreadable"`
}

// instanceView is one instance, how its connection is doing, and why it is not used.
type instanceView struct {
	Addr        string            `json:"addr"`
	State       discovery.State   `json:"state"`
	Used        bool              `json:"used"`
	Note        string            `json:"note,omitempty"`
	Connection  string            `json:"connection,omitempty"`
	Error       string            `json:"error,omitempty"`
	Incarnation string            `json:"incarnation,omitempty"`
	Version     string            `json:"version,omitempty"`
	Zone        string            `json:"zone,omitempty"`
	Weight      int               `json:"weight,omitempty"`
	Admin       string            `json:"admin,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	HeldSince   time.Time         `json:"held_since,omitzero"`
	HeldUntil   time.Time         `json:"held_until,omitzero"`

	// Ejected is where an instance that was taken out of use stands: "sentence", "probing" or "trial".
	Ejected      string    `json:"ejected,omitempty"`
	EjectedFor   string    `json:"ejected_for,omitempty"`  // the reason
	EjectedSince time.Time `json:"ejected_since,omitzero"` // when calls stopped
	EjectedUntil time.Time `json:"ejected_until,omitzero"` // of a sentence: when it ends and probing begins
	ProbeError   string    `json:"probe_error,omitempty"`  // how its last health probe since then failed
}

// sinceNow is the metadata of an instance that serves from now on: a key in etcd does not tell its age, and newsvc ls shows
// it.
func sinceNow() map[string]string {
	return map[string]string{"since": time.Now().UTC().Format(time.RFC3339)}
}

// discoveryNow gathers the page. It reads what is known and asks nobody.
func (s *Stack) discoveryNow() discoveryPage {
	page := discoveryPage{
		Service: s.p.Service, Incarnation: s.incarnation, Time: time.Now(), Prefix: s.p.Config.Discovery.Prefix,
		Registration: s.registrationNow(), Callees: []*calleePage{},
	}
	if s.etcd != nil {
		page.Etcd = &etcdView{Endpoints: s.etcd.Endpoints(), Connection: s.etcd.ActiveConnection().GetState().String()}
	}
	callees := map[string]*calleePage{}
	of := func(callee string) *calleePage {
		if callees[callee] == nil {
			callees[callee] = &calleePage{Callee: callee, Key: discovery.ServicePrefix(page.Prefix, callee), Instances: []instanceView{}}
		}
		return callees[callee]
	}
	for _, st := range s.clients.State() {
		of(st.Callee).Connection = &st
	}
	for _, st := range s.cache.State() {
		of(st.Service).take(st, s.endpoints(st.Service), s.p.Config.Discovery.Subset)
	}
	for service, w := range s.watches() {
		of(service).Watch = watchViewOf(w)
	}
	for _, callee := range slices.Sorted(maps.Keys(callees)) {
		p := callees[callee]
		s.explain(p)
		page.Callees = append(page.Callees, p)
	}
	return page
}

// endpoints is how the connections to a callee are doing; nil when it is not called.
func (s *Stack) endpoints(callee string) []client.EndpointState {
	if !slices.Contains(s.clients.Callees(), callee) {
		return nil
	}
	conn, err := s.clients.Conn(callee)
	if err != nil { // it was closed in between
		return nil
	}
	return conn.Endpoints()
}

// watches are the running watches by service.
func (s *Stack) watches() map[string]etcd.WatchState {
	if s.source == nil {
		return nil
	}
	out := map[string]etcd.WatchState{}
	for _, w := range s.source.State() {
		out[w.Service] = w
	}
	return out
}

func watchViewOf(w etcd.WatchState) *watchView {
	v := &watchView{LastSeen: w.LastSeen, Lists: w.Lists, Missed: w.Missed, BadCount: w.Unreadable, Unreadable: w.UnreadableKeys}
	if !w.LastSeen.IsZero() {
		v.Lag = time.Since(w.LastSeen).Seconds()
	}
	return v
}

// explain says why nobody takes calls to a callee that is looked up by its name, and what may have been meant.
func (s *Stack) explain(p *calleePage) {
	c := p.Connection
	if c == nil || p.Began.IsZero() || c.Connectivity == connectivity.Ready.String() || c.Policy.Target != "" {
		return
	}
	p.Why = s.why(p.Callee, s.endpoints(p.Callee))
	if p.Known && len(p.Instances) == 0 {
		p.DidYouMean = s.near.of(p.Callee)
	}
}

func (s *Stack) registrationNow() *registrationView {
	st, ok := s.Registration()
	if !ok {
		return nil
	}
	addr := s.membership().instance.Addr
	v := &registrationView{Addr: addr, State: st.State, Since: st.Since, Count: st.Count}
	if st.Err != nil {
		v.Error = st.Err.Error()
	}
	if s.leases == nil {
		return v
	}
	for _, r := range s.leases.State() {
		if r.Service != s.p.Service || r.Addr != addr {
			continue
		}
		v.Key, v.LeaseEnds = r.Key, r.LeaseEnds
		if r.Lease != 0 {
			v.Lease = fmt.Sprintf("%x", r.Lease)
			v.LeaseRemain = max(time.Until(r.LeaseEnds).Seconds(), 0)
		}
	}
	return v
}

// take takes in what the cache knows, with the state of each connection.
func (p *calleePage) take(st cache.ServiceState, endpoints []client.EndpointState, subset int) {
	u := st.Update
	p.Known, p.Revision, p.AsOf, p.Changed, p.Began = u.Known(), u.Revision, u.AsOf, st.Changed, st.Began
	p.Staleness, p.Failing, p.Guarding, p.Held = staleness(st).Seconds(), st.Failing, st.Guarding, len(st.Held)
	if u.Err != nil {
		p.Error = u.Err.Error()
	}
	connections := map[string]client.EndpointState{}
	for _, e := range endpoints {
		connections[e.Addr] = e
	}
	held := map[string]cache.Held{}
	for _, h := range st.Held {
		held[h.Instance.Addr] = h
	}
	for _, i := range u.Instances {
		h, isHeld := held[i.Addr]
		delete(held, i.Addr)
		v := viewOf(i)
		if isHeld {
			v.hold(h, "")
		}
		v.connect(connections, len(endpoints), subset > 0 && len(u.Instances) > subset)
		p.Instances = append(p.Instances, v)
	}
	published := u.Instances
	for _, i := range st.Leaving {
		if !slices.Contains(published, i) {
			v := viewOf(i)
			v.Note = "not used: it is draining"
			p.Instances = append(p.Instances, v)
		}
	}
	for _, h := range held {
		v := viewOf(h.Instance)
		v.hold(h, "; not used, remembered in case the rest vanishes too")
		p.Instances = append(p.Instances, v)
	}
	slices.SortFunc(p.Instances, func(a, b instanceView) int {
		return discovery.ByAddr(&discovery.Instance{Addr: a.Addr}, &discovery.Instance{Addr: b.Addr})
	})
}

// staleness is how old the knowledge of a service is: 0 while it is being followed.
func staleness(st cache.ServiceState) time.Duration {
	switch {
	case st.Update.Err == nil && st.Update.Known():
		return 0
	case st.Update.AsOf.IsZero():
		return time.Since(st.Began)
	}
	return time.Since(st.Update.AsOf)
}

func viewOf(i *discovery.Instance) instanceView {
	return instanceView{
		Addr: i.Addr, State: i.State, Incarnation: i.Incarnation, Version: i.Version, Zone: i.Zone, Weight: i.Weight,
		Admin: i.Admin, Metadata: i.Metadata,
	}
}

// hold notes that the instance vanished from etcd without having drained.
func (v *instanceView) hold(h cache.Held, consequence string) {
	v.HeldSince, v.HeldUntil = h.Since, h.Until
	v.Note = fmt.Sprintf("vanished %s ago without draining; held by the guard until %s%s",
		since(h.Since), h.Until.Format(time.TimeOnly), consequence)
}

// eject notes how far an ejected instance is on its way back; nil is one that is not.
func (v *instanceView) eject(e *client.EjectionState) {
	if e != nil {
		v.Ejected, v.EjectedFor, v.EjectedSince, v.EjectedUntil, v.ProbeError = e.Phase, e.Reason, e.Since, e.Until, e.ProbeError
	}
}

// connect notes how the connection is doing, and when that is why the instance is not used. told is how many instances the
// connection has, chosen whether those are a choice out of more.
func (v *instanceView) connect(connections map[string]client.EndpointState, told int, chosen bool) {
	e, connected := connections[v.Addr]
	note := ""
	switch {
	case told == 0: // nobody calls it, or the balancer does not tell
		return
	case !connected && chosen:
		note = fmt.Sprintf("not used: outside the subset of %d", told)
	case !connected:
		note = "not passed to the connection yet"
	default:
		v.Connection, v.Error = e.Connectivity, e.Error
		ready := e.Connectivity == connectivity.Ready.String()
		v.Used = ready && e.Ejected == "" && e.Share > 0 || e.LastResort
		v.eject(e.Ejection)
		switch {
		case e.Ejected != "":
			note = "takes no calls: " + e.Ejected
		case ready && e.Share == 0:
			note = "in reserve: enough instances take calls in the zone of this caller"
		case e.LastResort:
			note = "says that it does not serve any more; takes calls because no other does"
		case e.Connectivity == connectivity.TransientFailure.String():
			note = "takes no calls: it can't be reached, or says that it does not serve"
		}
	}
	if v.State == discovery.StateDraining && note == "" {
		note = "draining; used because nothing better is up"
	}
	switch {
	case note != "" && v.Note != "":
		v.Note += "; " + note
	case note != "":
		v.Note = note
	}
}
