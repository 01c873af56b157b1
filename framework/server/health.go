package server

import (
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/newsvc/newsvc/framework/readiness"
)

// Liveness is what the health service is asked for by those who replace processes, such as a liveness probe of Kubernetes.
// It is SERVING from the moment the server accepts connections until it stops, whatever readiness says: a server that is
// not ready, or waits for etcd, or drains, is alive. Callers ask for "" or for a service.
const Liveness = "liveness"

// Readiness is what the health service is asked for by those who replace processes one by one, such as a readiness probe of
// Kubernetes. It is SERVING while "" is and [Server.SetReadiness] has not said otherwise.
const Readiness = "readiness"

// SetServing says whether the health service may answer SERVING, for the whole server ("") and for each of its
// services. Without a readiness gate it decides alone and starts as false; with one, both must agree and it starts as
// true. After [Server.Stop] has begun it changes nothing.
func (s *Server) SetServing(serving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowed = serving
	s.healthLocked()
}

// SetReadiness says whether [Readiness] may be SERVING when "" is. It starts as true. What only those who replace this
// process have to wait for belongs here: callers do not ask for it.
func (s *Server) SetReadiness(ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unready = !ready
	s.healthLocked()
}

// follow takes a report of the readiness gate.
func (s *Server) follow(r readiness.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = r.Ready
	s.healthLocked()
}

func (s *Server) healthLocked() {
	state := healthpb.HealthCheckResponse_NOT_SERVING
	if s.allowed && s.ready && !s.stopping {
		state = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", state)
	for _, r := range s.pending {
		s.health.SetServingStatus(r.desc.ServiceName, state)
	}
	if s.unready {
		state = healthpb.HealthCheckResponse_NOT_SERVING
	}
	s.health.SetServingStatus(Readiness, state)
}
