package client

import (
	"context"
	"net"

	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/newsvc/newsvc/framework/certs"
)

// transportCredentials returns what secures the connection to callee. The files are read now.
func transportCredentials(cfg certs.ClientConfig, callee string, log *zap.Logger) (credentials.TransportCredentials, error) {
	conf, err := certs.Client(cfg, callee, certs.LogTo(log.With(zap.String("callee", callee))))
	if err != nil {
		return nil, prefixed("tls", err)
	}
	if conf == nil {
		return insecure.NewCredentials(), nil
	}
	return namedCredentials{TransportCredentials: credentials.NewTLS(conf), name: conf.ServerName}, nil
}

// namedCredentials verify name whatever the authority is. gRPC's own would verify the authority, and refuse a
// connection whose configured server name differs from it.
type namedCredentials struct {
	credentials.TransportCredentials
	name string
}

// ClientHandshake implements [credentials.TransportCredentials].
func (c namedCredentials) ClientHandshake(ctx context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.TransportCredentials.ClientHandshake(ctx, c.name, conn)
}

// Info implements [credentials.TransportCredentials]; it names no server, so that gRPC keeps the authority it was given.
func (c namedCredentials) Info() credentials.ProtocolInfo {
	info := c.TransportCredentials.Info()
	info.ServerName = "" //nolint:staticcheck // deprecated to set, but gRPC still reads it and compares it with the authority
	return info
}

// Clone implements [credentials.TransportCredentials].
func (c namedCredentials) Clone() credentials.TransportCredentials {
	return namedCredentials{TransportCredentials: c.TransportCredentials.Clone(), name: c.name}
}
