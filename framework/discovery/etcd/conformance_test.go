package etcd_test

import (
	"testing"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
)

func TestSourceConforms(t *testing.T) {
	t.Parallel()
	discoverytest.TestSource(t, func(t *testing.T) discoverytest.SourceHarness {
		f := newFixture(t)
		return discoverytest.SourceHarness{
			Source: f.source(),
			Put:    func(_ *testing.T, i *discovery.Instance) { f.put(i) },
			Remove: func(_ *testing.T, service, addr string) { f.del(f.key(service, addr)) },
			Break:  f.cut,
		}
	})
}

func TestRegistrarConforms(t *testing.T) {
	t.Parallel()
	discoverytest.TestRegistrar(t, func(t *testing.T) discoverytest.RegistrarHarness {
		f := newFixture(t)
		return discoverytest.RegistrarHarness{
			Registrar: f.registrar(),
			Source:    f.source(),
			Lose:      func(_ *testing.T, service, addr string) { f.del(f.key(service, addr)) },
			Break:     f.cut,
		}
	})
}

func (f *fixture) cut(*testing.T) (heal func()) {
	f.proxy.setCut(true)
	return func() { f.proxy.setCut(false) }
}
