package stack

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/newsvc/newsvc/framework/readiness"
)

// registeredCheck is the name of what /readyz checks beyond the gate.
const registeredCheck = "registered"

// serveReadyz answers with the gate's report, and with whether this instance was ever announced; gRPC's health of
// server.Readiness says the same without the reasons. That is no part of the gate: the instance registers when the gate is
// ready, and calls are answered all the while. It is for whoever replaces instances as their successors turn ready, and would
// leave callers with nobody while etcd is away.
func (s *Stack) serveReadyz(w http.ResponseWriter, _ *http.Request) {
	r := s.readiness.Report()
	if s.gatesReadiness() {
		st := s.registeredNow()
		r.Checks = append(r.Checks, st)
		r.Ready = r.Ready && st.OK
	}
	r.Answer(w)
}

// registers reports whether this process announces itself.
func (s *Stack) registers() bool { return s.server != nil && s.p.Config.Registration.Enabled }

// gatesReadiness reports whether this process counts as ready only once it was announced, for those who replace processes.
func (s *Stack) gatesReadiness() bool { return s.registers() && s.p.Config.Registration.GatesReadyz }

// registeredNow says whether this instance was announced once, which stays true whatever happens later: callers that know
// it go on calling while etcd is away. If it was not, it says why.
func (s *Stack) registeredNow() readiness.Status {
	st := readiness.Status{Name: registeredCheck, Since: s.built}
	m := s.membership()
	if m == nil {
		st.Error = fmt.Sprintf("this instance has not been announced in %s yet; it is once all other checks are met", s.where())
		return st
	}
	if first := m.firstAnnounced(); !first.IsZero() {
		st.OK, st.Since = true, first
		return st
	}
	tried, err := m.trying()
	if tried.IsZero() {
		st.Error = fmt.Sprintf("%s has not been announced in %s yet; it is once all other checks are met", m.instance.Addr, s.where())
		return st
	}
	st.Error = fmt.Sprintf("%s has not been announced in %s yet, tried for %s", m.instance.Addr, s.where(), since(tried))
	if err != nil {
		st.Error += ": " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return st
}

// firstAnnounced is when this instance was seen to be announced for the first time; zero before.
func (m *membership) firstAnnounced() time.Time {
	if m.announced() == 0 {
		return time.Time{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.first.IsZero() {
		m.first = time.Now()
	}
	return m.first
}

// trying is since when it has been tried to announce this instance, and why it has not worked; zero while it is not tried.
func (m *membership) trying() (since time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reg != nil {
		st := m.reg.Status()
		return st.Since, st.Err
	}
	return m.refusedAt, m.refused
}
