package fakeetcd

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
)

// Protect demands tokens from now on: any name and password get one.
func (s *Server) Protect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.tokens = make(map[string]struct{})
}

// ExpireTokens makes all tokens that were given out invalid.
func (s *Server) ExpireTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.faults.tokens)
}

// Authenticate implements etcd's Auth.
func (s *Server) Authenticate(context.Context, *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.tokens == nil {
		return nil, rpctypes.ErrGRPCAuthNotEnabled
	}
	s.faults.issued++
	token := fmt.Sprintf("token-%d", s.faults.issued)
	s.faults.tokens[token] = struct{}{}
	return &pb.AuthenticateResponse{Header: s.header(s.store.revision), Token: token}, nil
}

// authorized looks at the token that a request or its stream came with.
func (s *Server) authorized(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.tokens == nil {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	token := md.Get(rpctypes.TokenFieldNameGRPC)
	if len(token) == 0 {
		return rpctypes.ErrGRPCUserEmpty
	}
	if _, ok := s.faults.tokens[token[0]]; !ok {
		return rpctypes.ErrGRPCInvalidAuthToken
	}
	return nil
}
