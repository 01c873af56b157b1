package etcd_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/internal/fakeetcd/model"
)

// What models and those who made them found, each as small as it could be made. What happens at the same moment happens in
// another order each time, hence the repetitions.

func TestARefusedWatchOfTheOwnKeyIsAskedForLessAndLess(t *testing.T) {
	t.Parallel()
	model.Repeat(t, 2, model.Schedule{
		{Wait: time.Second, Kind: "refuse watches", N: 27},
		{Wait: 20 * time.Second, Kind: "reset"},
		{Wait: 20 * time.Second, Kind: "reset"},
	}, runRegistrar)
}

func TestAnIncarnationThatComesBackYieldsToWhoCameMeanwhile(t *testing.T) {
	t.Parallel()
	model.Repeat(t, 2, model.Schedule{
		{Wait: time.Second, Kind: "register"},
		{Wait: time.Second, Kind: "close", N: 50},
		{Wait: time.Second, Kind: "return"},
	}, runRegistrar)
}

func TestAnInstanceCanComeBackAfterItsCloseWasCutOff(t *testing.T) {
	t.Parallel()
	model.Repeat(t, 2, nil, func(ctx context.Context, w model.World, _ model.Schedule) error {
		r, err := etcd.NewRegistrar(w.Client, etcd.Options{})
		if err != nil {
			return err
		}
		inst := discovery.Instance{Service: modelService, Addr: modelAddr, Incarnation: "one"}
		w.Server.Network().Hold(true, true) // its first call to etcd is under way for as long as it may be
		first, err := r.Register(ctx, inst)
		if err != nil {
			return err
		}
		over, cancel := context.WithCancel(ctx)
		cancel()
		if err := first.Close(over); err == nil {
			return fmt.Errorf("Close said that all is withdrawn, though etcd could not be reached")
		}
		again, err := r.Register(ctx, inst)
		if err != nil {
			return err
		}
		w.Server.Network().Heal()
		if err := discovery.WaitUp(ctx, again); err != nil {
			return err
		}
		if err := first.Close(ctx); err != nil {
			return err
		}
		if kv := w.Server.Get(discovery.Key(discovery.DefaultPrefix, modelService, modelAddr)); kv == nil {
			return fmt.Errorf("the second Close of the first registration took away what the second one wrote")
		}
		return r.Close(ctx)
	})
}
