package auth

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// reason is why a call is refused.
type reason int

const (
	reasonMissing reason = iota
	reasonScheme
	reasonUnwanted
	reasonMalformed
	reasonAlgorithm
	reasonKey
	reasonSignature
	reasonClaims
	reasonExpired
	reasonEarly
	reasonAudience
	reasonIssuer
	reasonBinding
	reasonNoKeys
	reasonForbidden
	reasonScope
	reasonNobody
)

// verdict is what a reason says to the caller, which is all that he is told: enough to mend what he can mend, and
// nothing by which a forger could see how near he came.
type verdict struct {
	code codes.Code
	name string // as ErrorInfo says it, for programs
	text string // for people
}

// verdict looks alike for several reasons: who made a token that can't be verified knows why, and nobody else has to.
func (r reason) verdict() verdict {
	const invalid = "TOKEN_INVALID"
	switch r {
	case reasonMissing:
		return verdict{codes.Unauthenticated, "CREDENTIALS_MISSING", `this method wants to know who calls: send metadata "authorization" with "Bearer" and a token, or present a client certificate`}
	case reasonScheme:
		return verdict{codes.Unauthenticated, invalid, `metadata "authorization" must be there once, as "Bearer" and a token`}
	case reasonUnwanted:
		return verdict{codes.Unauthenticated, invalid, "this service takes no tokens; send none"}
	case reasonClaims:
		return verdict{codes.Unauthenticated, invalid, "the token does not say whom it is about and when it ends, as every token must"}
	case reasonExpired:
		return verdict{codes.Unauthenticated, "TOKEN_EXPIRED", "the token has expired; get a new one"}
	case reasonEarly:
		return verdict{codes.Unauthenticated, "TOKEN_NOT_YET_VALID", "the token is not valid yet; look at the clocks"}
	case reasonAudience:
		return verdict{codes.Unauthenticated, "TOKEN_AUDIENCE", "the token is meant for somebody else; get one for this service"}
	case reasonIssuer:
		return verdict{codes.Unauthenticated, "TOKEN_ISSUER", "the token is of an issuer that this service does not trust"}
	case reasonBinding:
		return verdict{codes.Unauthenticated, "TOKEN_BINDING", "the token may be used by its owner only, who must present the certificate it was issued for"}
	case reasonNoKeys:
		return verdict{codes.Unavailable, notprocessed.Reason, "tokens can't be verified at present; try again"}
	case reasonForbidden:
		return verdict{codes.PermissionDenied, "CALLER_NOT_ADMITTED", "this caller is not admitted to the method"}
	case reasonScope:
		return verdict{codes.PermissionDenied, "SCOPE_MISSING", "the token lacks a scope that the method wants"}
	case reasonNobody:
		return verdict{codes.PermissionDenied, "NOBODY_ADMITTED", "nobody is admitted to the method"}
	default: // malformed, algorithm, key, signature
		return verdict{codes.Unauthenticated, invalid, "the token can't be verified"}
	}
}

// refusal is a refused call: its reason, and the details that stay here.
type refusal struct {
	reason reason
	detail string // for the log
	more   string // for the caller, besides the reason's text
}

func refuse(r reason, detail string) error { return &refusal{reason: r, detail: detail} }

// Error is what the log says.
func (r *refusal) Error() string { return r.reason.verdict().text + ": " + r.detail }

// status is what the caller gets.
func (r *refusal) status() error {
	v := r.reason.verdict()
	if v.name == notprocessed.Reason {
		return notprocessed.Error(v.text)
	}
	st := status.New(v.code, v.text+r.more)
	detailed, err := st.WithDetails(&errdetails.ErrorInfo{Domain: notprocessed.Domain, Reason: v.name})
	if err != nil { // only an OK status refuses details
		return st.Err()
	}
	return detailed.Err()
}

// logEvery is how often refusals of one kind are told. Whoever floods a server with bad tokens shall not fill its disk.
const logEvery = time.Minute

// refusalLog tells of refusals, the first of each kind at once.
type refusalLog struct {
	log *zap.Logger

	mu   sync.Mutex
	told map[refusalKind]*telling
}

// refusalKind has few values: reasons are constants, and callers are bounded as in metrics.
type refusalKind struct {
	reason reason
	caller string
}

type telling struct {
	last    time.Time
	skipped int
}

func (l *refusalLog) tell(r *refusal, caller, method string, field zap.Field) {
	kind := refusalKind{reason: r.reason, caller: caller}
	now := time.Now()
	l.mu.Lock()
	t := l.told[kind]
	if t == nil {
		t = &telling{}
		l.told[kind] = t
	}
	if now.Sub(t.last) < logEvery {
		t.skipped++
		l.mu.Unlock()
		return
	}
	skipped := t.skipped
	t.last, t.skipped = now, 0
	l.mu.Unlock()
	l.log.Warn("a call was refused", zap.String("method", method), zap.String("reason", r.reason.verdict().name+": "+r.detail),
		zap.Int("refused_alike_since", skipped), field)
}
