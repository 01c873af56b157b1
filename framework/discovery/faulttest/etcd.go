package faulttest

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
)

// memberRole is a member of an etcd cluster.
type memberRole struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
	// Client and Peer are where it listens, host:port; Advertised is where the others find it, a proxy in front of Peer.
	Client     string `json:"client"`
	Peer       string `json:"peer"`
	Advertised string `json:"advertised"`
	// Initial is the cluster as the flag of etcd has it; Existing says that it runs already.
	Initial  string `json:"initial"`
	Existing bool   `json:"existing,omitempty"`

	Slow     bool          `json:"slow,omitempty"`
	Quota    int64         `json:"quota,omitempty"`
	TokenTTL time.Duration `json:"token_ttl,omitempty"`
	Compact  time.Duration `json:"compact,omitempty"`
	Progress time.Duration `json:"progress,omitempty"`
}

// memberHello is what a member says when it listens.
type memberHello struct {
	ID string `json:"id"` // in hexadecimal, as etcd writes it
}

func (r *memberRole) run(ctx context.Context, _ []Adapter, l *line) error {
	conf, err := r.config()
	if err != nil {
		return err
	}
	serving := make(chan *grpc.Server, 1)
	conf.ServiceRegister = func(gs *grpc.Server) { serving <- gs }
	e, err := embed.StartEtcd(conf)
	if err != nil {
		return fmt.Errorf("start etcd %q: %w", r.Name, err)
	}
	defer func() {
		select {
		case gs := <-serving:
			gs.Stop() // etcd's own way waits seconds for open watches
		default:
		}
		e.Close()
	}()
	if err := l.hello(memberHello{ID: e.Server.MemberID().String()}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-e.Err():
		return fmt.Errorf("etcd %q ended by itself: %w", r.Name, err)
	case <-e.Server.StopNotify():
		return fmt.Errorf("etcd %q stopped by itself", r.Name)
	}
}

func (r *memberRole) config() (*embed.Config, error) {
	c := embed.NewConfig()
	c.Name, c.Dir = r.Name, r.Dir
	client, peer := url.URL{Scheme: "http", Host: r.Client}, url.URL{Scheme: "http", Host: r.Peer}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls = []url.URL{peer}
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: r.Advertised}}
	c.InitialCluster = r.Initial
	if r.Existing {
		c.ClusterState = embed.ClusterStateFlagExisting
	}
	c.StrictReconfigCheck = false // it refuses to replace a member before all have seen each other for 5 s
	c.EnableGRPCGateway = false
	c.LogLevel = "warn"
	c.LogOutputs = []string{"stderr"}
	c.QuotaBackendBytes = r.Quota
	c.BcryptCost = 4       // the cheapest; passwords of tests are no secrets
	c.UnsafeNoFsync = true // processes are killed here, not machines
	c.WatchProgressNotifyInterval = r.Progress
	if !r.Slow {
		c.TickMs, c.ElectionMs = 10, 100
	}
	if r.TokenTTL > 0 {
		c.AuthTokenTTL = uint(max(r.TokenTTL/time.Second, 1))
	}
	if r.Compact > 0 {
		c.AutoCompactionMode = embed.CompactorModePeriodic
		c.AutoCompactionRetention = r.Compact.String()
	}
	return c, c.Validate()
}
