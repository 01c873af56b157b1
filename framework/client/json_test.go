package client_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/client"
)

func TestPolicyAsJSONReadsLikeItsConfiguration(t *testing.T) {
	t.Parallel()
	p := client.DefaultPolicy()
	p.Timeout, p.TLS.CA = 1500*time.Millisecond, "ca.pem"
	raw, err := json.Marshal(client.State{Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Policy struct {
			Timeout string `json:"timeout"`
			Retry   struct {
				MaxAttempts    int    `json:"max_attempts"`
				InitialBackoff string `json:"initial_backoff"`
			} `json:"retry"`
			TLS struct {
				CA string `json:"ca"`
			} `json:"tls"`
		} `json:"policy"`
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	if g := got.Policy; g.Timeout != "1.5s" || g.Retry.InitialBackoff != "50ms" || g.Retry.MaxAttempts != 4 || g.TLS.CA != "ca.pem" {
		t.Errorf("got %s", raw)
	}
}
