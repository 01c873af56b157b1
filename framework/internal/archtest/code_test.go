package archtest

import (
	"go/ast"
	"slices"
	"strings"
)

func codeRules() []rule {
	return []rule{
		{"no init functions", checkInit},
		{"no naked sleeps", checkSleep},
		{"goroutines are owned", checkGo},
		{"only mains exit", checkExit},
	}
}

func checkInit(files []*file) (found []finding) {
	for _, f := range goFiles(files) {
		// The one exception: gRPC finds balancers only by name in a global registry that must be filled before any dial.
		if f.dir() == "framework/client/internal/balancer" {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				found = append(found, f.at(fn.Pos(), "func init acts on import, in an order nobody chose: let the caller call it"))
			}
		}
	}
	return found
}

func checkSleep(files []*file) (found []finding) {
	for _, f := range goFiles(files) {
		f.uses("time", func(sel *ast.SelectorExpr) {
			if name := sel.Sel.Name; name == "Sleep" || name == "After" {
				found = append(found, f.at(sel.Pos(), "time.%s cannot be ended by a context: use backoff.Wait, or a timer in a select with ctx.Done(); in tests wait for the condition or use testing/synctest", name))
			}
		})
	}
	for _, f := range files {
		if !f.within("templates") || f.ast != nil {
			continue
		}
		f.lines(func(line int, text string) {
			if strings.Contains(text, "time.Sleep"+"(") || strings.Contains(text, "time.After"+"(") {
				found = append(found, finding{f.path, line, "a template sleeps: what users copy must wait on a context"})
			}
		})
	}
	return found
}

func checkGo(files []*file) (found []finding) {
	for _, f := range goFiles(files) {
		if !f.within("framework") || f.test() || f.dir() == "framework/internal/loop" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if stmt, ok := n.(*ast.GoStmt); ok {
				found = append(found, f.at(stmt.Pos(), "naked go statement: use loop.Start or loop.Group, so that somebody owns the goroutine and waits for it"))
			}
			return true
		})
	}
	return found
}

func checkExit(files []*file) (found []finding) {
	exits := []struct {
		target string
		names  []string
	}{{"os", []string{"Exit"}}, {"log", []string{"Fatal", "Fatalf", "Fatalln"}}}
	for _, f := range goFiles(files) {
		if f.isMain() || f.test() || f.within("framework/app") {
			continue
		}
		for _, exit := range exits {
			f.uses(exit.target, func(sel *ast.SelectorExpr) {
				if slices.Contains(exit.names, sel.Sel.Name) {
					found = append(found, f.at(sel.Pos(), "%s.%s skips every defer and drain: return an error, main decides", exit.target, sel.Sel.Name))
				}
			})
		}
	}
	return found
}

// uses calls see with each selector on the imported package target.
func (f *file) uses(target string, see func(sel *ast.SelectorExpr)) {
	name := f.localName(target)
	if name == "" {
		return
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == name {
				see(sel)
			}
		}
		return true
	})
}
