package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"
)

// tokenAge is how long a token is used before its file is looked at again.
const tokenAge = time.Second

// tokenMost is the size of the largest token; what is larger than servers take in a header is the wrong file.
const tokenMost = 16 << 10

// tokenFile sends the bearer token that a file holds with each call. The file is read again by calls, at most once a
// second; while it can't be used the last good token goes on.
type tokenFile struct {
	path      string
	plaintext bool // may be sent without TLS
	log       *zap.Logger
	header    atomic.Pointer[map[string]string] // not changed once stored: gRPC only reads it
	looked    atomic.Int64                      // when the file was read last, unix nanoseconds

	mu      sync.Mutex // held by who reads the file
	lastErr string     // why it could not be used; empty when it could
}

var _ credentials.PerRPCCredentials = (*tokenFile)(nil)

// newTokenFile reads the file now.
func newTokenFile(p Policy, log *zap.Logger) (*tokenFile, error) {
	t := &tokenFile{path: p.TokenFile, plaintext: p.TokenWithoutTLS, log: log}
	if err := t.read(); err != nil {
		return nil, fmt.Errorf("token_file: %w", err)
	}
	t.looked.Store(time.Now().UnixNano())
	return t, nil
}

// GetRequestMetadata implements [credentials.PerRPCCredentials].
func (t *tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if now := time.Now().UnixNano(); now-t.looked.Load() >= int64(tokenAge) && t.mu.TryLock() {
		t.look(now)
		t.mu.Unlock()
	}
	return *t.header.Load(), nil
}

// RequireTransportSecurity implements [credentials.PerRPCCredentials].
func (t *tokenFile) RequireTransportSecurity() bool { return !t.plaintext }

// look reads the file again, and says once that it can't be used and once that it can again.
func (t *tokenFile) look(now int64) {
	t.looked.Store(now)
	err := t.read()
	switch {
	case err == nil && t.lastErr != "":
		t.lastErr = ""
		t.log.Info("the token file can be used again", zap.String("file", t.path))
	case err != nil && t.lastErr != err.Error():
		t.lastErr = err.Error()
		t.log.Warn("the token file can't be used; the last good token is sent on", zap.String("file", t.path), zap.Error(err))
	}
}

func (t *tokenFile) read() error {
	raw, err := os.ReadFile(t.path)
	if err != nil {
		return fmt.Errorf("reading the token: %w; name a file that this process may read", err)
	}
	token := strings.TrimSpace(string(raw))
	switch {
	case token == "":
		return fmt.Errorf("%q is empty; write the token into it", t.path)
	case len(token) > tokenMost:
		return fmt.Errorf("%q holds %d bytes, which is no token; a token has %d at most", t.path, len(token), tokenMost)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("%q holds more than a token; write the token alone, without \"Bearer\"", t.path)
	}
	value := "Bearer " + token
	if h := t.header.Load(); h == nil || (*h)["authorization"] != value {
		t.header.Store(&map[string]string{"authorization": value})
	}
	return nil
}

func (p Policy) validateToken() error {
	if p.TokenFile != "" && !p.TokenWithoutTLS && !p.TLS.Active() {
		return errors.New("token_file: the token would be readable by everybody on the way; set tls.enabled: true, or token_without_tls: true where something else secures the way")
	}
	return nil
}
