package client

import "sync/atomic"

// budget is a bucket of tokens that calls fill and repeats empty; it holds the number of repeats to a share of the
// number of calls. The zero value is empty; fill it first. Safe for concurrent use.
type budget struct {
	milli atomic.Int64 // thousandths of a token, so that a ratio can be earned without floating point
}

// limits of a budget in thousandths of a token.
type budgetLimits struct{ size, earn int64 }

func limitsOf(p RepeatPolicy) budgetLimits {
	return budgetLimits{size: int64(p.BudgetTokens) * 1000, earn: max(1, int64(p.BudgetRatio*1000))}
}

func (b *budget) fill(l budgetLimits) { b.milli.Store(l.size) }

// earn adds what a call earns. On a full bucket, the normal case, it only reads.
func (b *budget) earn(l budgetLimits) {
	for {
		have := b.milli.Load()
		if have >= l.size || b.milli.CompareAndSwap(have, min(have+l.earn, l.size)) {
			return
		}
	}
}

// take takes a token and reports whether there was one.
func (b *budget) take(l budgetLimits) bool {
	for {
		have := b.milli.Load()
		usable := min(have, l.size) // the size may have been lowered since
		if usable < 1000 {
			return false
		}
		if b.milli.CompareAndSwap(have, usable-1000) {
			return true
		}
	}
}
