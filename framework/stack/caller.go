package stack

import "context"

// rateLimitCaller is whom a rate limit per caller counts: who authentication found, if it did.
func rateLimitCaller(ctx context.Context) string {
	who, _ := Subject(ctx)
	return who
}
