package stack

import "context"

// rateLimitCaller is whom a rate limit per caller counts: who authentication found, if it did. People, services and
// addresses are told apart, so that nobody uses up the rate of another by having the same name.
func rateLimitCaller(ctx context.Context) string {
	who, known := Caller(ctx)
	switch {
	case !known:
		return ""
	case who.Subject != "":
		return "subject " + who.Subject
	}
	return "service " + who.Service
}
