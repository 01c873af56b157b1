package problem

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// PrintJSON writes err as one line of JSON, for programs that asked for it with -o json:
//
//	{"error":{"what":"...","at":"...","fix":"...","exit":2}}
//
// All four keys are always there. Like [Print] it writes nothing for nil and for an error without text.
func PrintJSON(w io.Writer, err error) {
	if err == nil || err.Error() == "" {
		return
	}
	type body struct {
		What string `json:"what"`
		At   string `json:"at"`
		Fix  string `json:"fix"`
		Exit int    `json:"exit"`
	}
	b := body{What: err.Error(), Exit: Code(err)}
	if p, ok := errors.AsType[*Error](err); ok {
		b.At, b.Fix = p.At, p.Fix
		b.What = strings.TrimSuffix(b.What, strings.TrimPrefix(p.Error(), p.What))
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(map[string]body{"error": b})
}
