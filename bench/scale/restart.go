package main

import "context"

func (s *settings) restarted(ctx context.Context, w *world) error { return nil }
