package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/newsvc/newsvc/framework/certs"
)

// maxKeysBytes is the size of the largest key set that is read.
const maxKeysBytes = 1 << 20

// loader returns what reads the key set of a configuration. A file is looked at now, since it does not come by itself.
func loader(cfg JWTConfig, transport http.RoundTripper, opts ...certs.Option) (func(context.Context) ([]byte, error), error) {
	if !strings.Contains(cfg.JWKS, "://") {
		load := func(context.Context) ([]byte, error) { return readFile(cfg.JWKS) }
		data, err := load(context.Background())
		if err == nil {
			_, _, err = parseKeys(data, cfg.Algorithms)
		}
		if err != nil {
			return nil, fmt.Errorf("jwks: reading %q: %w", cfg.JWKS, err)
		}
		return load, nil
	}
	if transport == nil {
		conf, err := certs.Client(cfg.TLS, "", append(opts, certs.AllowTLS12())...)
		if err != nil {
			return nil, fmt.Errorf("tls.%w", err)
		}
		// Nothing is kept between two readings, which are minutes apart.
		transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, DisableKeepAlives: true,
			TLSHandshakeTimeout: cfg.Timeout, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
		}
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) >= 3 {
			return errors.New("it redirects too often")
		}
		return checkJWKS(r.URL.String())
	}}
	return func(ctx context.Context) ([]byte, error) { return fetch(ctx, client, cfg.JWKS) }, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return bounded(f)
}

func bounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKeysBytes+1))
	if err == nil && len(data) > maxKeysBytes {
		err = fmt.Errorf("it is larger than %d bytes", maxKeysBytes)
	}
	return data, err
}

func fetch(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("reading %q: it answered %q", address, resp.Status)
	}
	return bounded(resp.Body)
}
