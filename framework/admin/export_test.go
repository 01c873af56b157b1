package admin

import "net/http"

// ServedBy is the handler of the listener that New makes.
func ServedBy(cfg Config, h Handlers) http.Handler { return cfg.handler(h) }
