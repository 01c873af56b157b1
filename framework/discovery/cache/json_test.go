package cache_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
)

func TestStateAsJSONSaysWhyItIsStale(t *testing.T) {
	t.Parallel()
	asOf := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	one := &discovery.Instance{Service: "user-service", Addr: "10.0.0.1:9000", Incarnation: "A", State: discovery.StateUp, Zone: "eu-1"}
	two := &discovery.Instance{Service: "user-service", Addr: "10.0.0.2:9000", State: discovery.StateDraining}
	for name, tc := range map[string]struct {
		state cache.ServiceState
		want  string
	}{
		"nothing known yet": {
			cache.ServiceState{Service: "user-service", Update: discovery.Update{Err: errors.New("etcd is away")}, Watchers: 1},
			`{"service":"user-service","known":false,"instances":[],"revision":0,"error":"etcd is away","guarding":false,"draining":0,"watchers":1}`,
		},
		"a stale set with a held instance": {
			cache.ServiceState{
				Service:  "user-service",
				Update:   discovery.Update{Instances: []*discovery.Instance{one}, Revision: 7, AsOf: asOf, Err: errors.New("etcd is away")},
				Held:     []cache.Held{{Instance: two, Since: asOf, Until: asOf.Add(time.Minute)}},
				Guarding: true, Draining: 1, Watchers: 2,
			},
			`{"service":"user-service","known":true,"instances":[{"addr":"10.0.0.1:9000","incarnation":"A","state":"up","zone":"eu-1"}],` +
				`"revision":7,"as_of":"2026-01-02T03:04:05Z","error":"etcd is away","held":[{"addr":"10.0.0.2:9000","state":"draining",` +
				`"since":"2026-01-02T03:04:05Z","until":"2026-01-02T03:05:05Z"}],"guarding":true,"draining":1,"watchers":2}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := json.Marshal(tc.state)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
