//go:build !linux

package faulttest

import (
	"context"
	"time"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// standsStill gives a process that was sent SIGSTOP time to stop.
func standsStill(ctx context.Context, _ int) error { return backoff.Sleep(ctx, 50*time.Millisecond) }
