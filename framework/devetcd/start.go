package devetcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// startOnce starts etcd on s.addr and waits until it serves. When it fails nothing is left running.
func (s *Server) startOnce(ctx context.Context, cfg Config) error {
	serving := make(chan *grpc.Server, 1)
	s.fatal = &fatalHook{errs: make(chan error, 1)}
	ec := s.embedConfig(cfg)
	ec.ServiceRegister = func(gs *grpc.Server) { serving <- gs }
	if err := ctx.Err(); err != nil {
		return err
	}
	// In a goroutine of its own, since a fatal error of etcd ends the goroutine that meets it.
	err := errors.New("etcd ended while it started")
	boot := loop.Start(context.WithoutCancel(ctx), func(context.Context) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("etcd panicked while it started: %v; the data in %q may be damaged", p, s.dir)
			}
		}()
		s.etcd, err = embed.StartEtcd(ec)
	})
	<-boot.Done() // opens files and listeners of this machine only; ends without ctx
	if err != nil {
		select {
		case fatal := <-s.fatal.errs:
			return fatal
		default:
			return err
		}
	}
	select {
	case s.gs = <-serving:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case err = <-s.fatal.errs:
	case err = <-s.etcd.Err():
	case <-s.etcd.Server.StopNotify():
		err = errors.New("etcd stopped while it started")
	}
	s.etcd.Close()
	return err
}

// embedConfig translates our few settings. There is no peer listener: a single member never talks to itself, and a
// peer address that may be busy would be one more way not to start.
func (s *Server) embedConfig(cfg Config) *embed.Config {
	c := embed.NewConfig()
	c.Name = Name
	c.Dir = s.dir
	c.InitialCluster = c.InitialClusterFromName(Name)
	c.ListenPeerUrls = nil
	client := url.URL{Scheme: "http", Host: s.addr}
	c.ListenClientUrls = []url.URL{client}
	c.AdvertiseClientUrls = []url.URL{client}
	c.EnableGRPCGateway = false
	c.QuotaBackendBytes = cfg.QuotaBytes
	c.WatchProgressNotifyInterval = cfg.WatchProgressInterval
	if cfg.Fast {
		c.TickMs, c.ElectionMs = 10, 100
		c.UnsafeNoFsync = true
		c.BcryptCost = 4 // the cheapest; passwords of tests are no secrets
	}
	if cfg.AuthToken != "" {
		c.AuthToken = cfg.AuthToken
	}
	if cfg.AuthTokenTTL > 0 {
		c.AuthTokenTTL = uint(max(cfg.AuthTokenTTL/time.Second, 1))
	}
	if cfg.AutoCompaction > 0 {
		c.AutoCompactionMode = embed.CompactorModePeriodic
		c.AutoCompactionRetention = cfg.AutoCompaction.String()
	}
	log := cfg.Log
	if log == nil {
		log = zap.NewNop()
	}
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log.WithOptions(zap.WithFatalHook(s.fatal)))
	return c
}

// fatalHook takes the place of the exit that follows a fatal log line of etcd.
type fatalHook struct{ errs chan error }

// OnWrite keeps the first fatal error and ends the goroutine that met it, as the caller of Fatal expects not to go on.
func (h *fatalHook) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(entry.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			err = fmt.Errorf("%s: %w", entry.Message, cause)
		}
	}
	select {
	case h.errs <- err:
	default:
	}
	runtime.Goexit()
}
