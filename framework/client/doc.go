// Package client makes connections to other services by their name. A [Factory] hands out one stable [Conn] per
// callee, to be given to generated client constructors; a [Policy] per callee says how long calls may take, what is
// repeated, how instances are picked and whether TLS is spoken. It does not know where instances are listed: that is
// the resolver it is given, or the target of a policy. Nothing is connected until the first call or [Conn.Connect].
//
// What is repeated, and by whom:
//
//   - Calls that never left this process, and the first attempt of one that a server is known not to have looked at,
//     are repeated by gRPC itself, always.
//   - Methods whose proto says idempotency_level NO_SIDE_EFFECTS or IDEMPOTENT are retried by gRPC when an instance
//     answers UNAVAILABLE or is lost, as [RetryPolicy] says.
//   - A refusal that carries the NOT_PROCESSED mark (no handler ran) is repeated by this package for every method, as
//     [RepeatPolicy] says. Where gRPC retries too it goes first, and this package adds one repeat at most, so that
//     the two do not multiply.
//
// The mark is taken off the errors that the caller sees: passed on by a handler, it would claim that the handler
// itself never ran, and have its own caller repeat it.
//
// Which instances get calls: those that are connected and serve, but for those that are sick while others are not, see
// [EjectionPolicy]. [BreakerPolicy] holds calls back when the callee as a whole is in trouble.
package client
