package tidy

import (
	"go/ast"
	"go/token"
	"regexp"
	"strings"
	"testing"
)

func TestEveryPackageHasOneComment(t *testing.T) {
	comments, inTests := map[string][]string{}, map[string][]string{}
	each(t, func(s *source) {
		if s.made {
			return // the comment is in the .proto file
		}
		list := comments
		if s.test {
			list = inTests
		}
		names := list[s.dir] // a package without any comment is noted too
		if s.ast.Doc != nil {
			names = append(names, s.name)
		}
		list[s.dir] = names
	})
	for dir, names := range inTests {
		if _, ok := comments[dir]; !ok {
			comments[dir] = names // nothing but tests is there
		}
	}
	for dir, names := range comments {
		switch len(names) {
		case 0:
			t.Errorf("package in %q has no package comment", dir)
		case 1:
		default:
			t.Errorf("package in %q has several package comments: %v", dir, names)
		}
	}
}

func TestEveryExportedNameHasAComment(t *testing.T) {
	each(t, func(s *source) {
		if s.test || s.made || s.ast.Name.Name == "main" {
			return
		}
		for _, decl := range s.ast.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && !isKnownMethod(s, d) {
					t.Errorf("%s: %s has no comment", s.at(d), d.Name)
				}
			case *ast.GenDecl:
				checkSpecs(t, s, d)
			}
		}
	})
}

// isKnownMethod says that a method needs no comment of its own: that of a type
// which is not exported, or one whose meaning its interface states.
func isKnownMethod(s *source, d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return false
	}
	receiver := d.Recv.List[0].Type
	for {
		switch r := receiver.(type) {
		case *ast.StarExpr:
			receiver = r.X
			continue
		case *ast.IndexExpr:
			receiver = r.X
			continue
		case *ast.Ident:
			if !r.IsExported() {
				return true
			}
		}
		break
	}
	switch d.Name.Name {
	case "String", "GoString", "Error", "Unwrap", "Is", "As", "Len", "Less", "Swap", "MarshalText", "UnmarshalText", "Collect", "Describe":
		return true
	}
	// The kernel's requests, each with the comment of its file.
	return s.dir == "fuse"
}

// checkSpecs wants a comment on each exported type, constant and variable, or on
// the group that it stands in.
func checkSpecs(t *testing.T, s *source, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch x := spec.(type) {
		case *ast.TypeSpec:
			if x.Name.IsExported() && d.Doc == nil && x.Doc == nil && x.Comment == nil {
				t.Errorf("%s: type %s has no comment", s.at(x), x.Name)
			}
		case *ast.ValueSpec:
			for _, name := range x.Names {
				if name.IsExported() && d.Doc == nil && x.Doc == nil && x.Comment == nil {
					t.Errorf("%s: %s has no comment", s.at(x), name)
				}
			}
		}
	}
}

// pure are the packages that take values and return values: no clock, no goroutine,
// no chance. A replica must come to the same state from the same commands.
const pure = "meta placement meta/repair chunk/code"

// banned calls, each with what to do instead.
type ban struct {
	pkg, names string
	in         func(*source) bool
	instead    string
}

func notTest(s *source) bool { return !s.test && !strings.HasPrefix(s.dir, "test/") }
func isPure(s *source) bool  { return !s.test && has(pure, s.dir) }
func notMain(s *source) bool { return notTest(s) && s.ast.Name.Name != "main" }
func anywhere(*source) bool  { return true }

var bans = []ban{
	{"time", "Now Since Until Sleep After AfterFunc Tick NewTimer NewTicker", isPure, "the leader puts the time into the command"},
	{"math/rand", "*", anywhere, "math/rand/v2 with a source of its own"},
	{"math/rand/v2", "Int IntN Int64 Int64N Uint32 Uint64 Float64 Perm Shuffle N", isPure, "take chance as an argument"},
	{"context", "TODO", notMain, "take a context from the caller"},
	{"os", "Exit", func(s *source) bool { return s.ast.Name.Name != "main" && !isTestMain(s) }, "return an error; main exits"},
	// memberlist wants a *log.Logger; gossip gives it one that writes to slog.
	{"log", "*", func(s *source) bool { return notTest(s) && s.dir != "gossip" }, "log/slog, the logger that was passed in"},
	{"io/ioutil", "*", anywhere, "io and os"},
	{"net/http", "DefaultServeMux Handle HandleFunc", notTest, "a mux of its own"},
}

func isTestMain(s *source) bool { return s.test && strings.HasSuffix(s.name, "main_test.go") }

func TestBannedCalls(t *testing.T) {
	each(t, func(s *source) {
		imports := s.imports()
		for _, b := range bans {
			local, ok := imports[b.pkg]
			if !ok || !b.in(s) {
				continue
			}
			if b.pkg == "math/rand/v2" && local == "v2" {
				local = "rand"
			}
			if b.names == "*" {
				t.Errorf("%s imports %s; instead: %s", s.name, b.pkg, b.instead)
				continue
			}
			ast.Inspect(s.ast, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok && isName(sel.X, local) && has(b.names, sel.Sel.Name) {
					t.Errorf("%s: %s.%s is banned here; instead: %s", s.at(n), b.pkg, sel.Sel.Name, b.instead)
				}
				return true
			})
		}
	})
}

// isName says that an expression is the name of a package, not of a variable that
// hides it.
func isName(x ast.Expr, name string) bool {
	id, ok := x.(*ast.Ident)
	return ok && id.Name == name && id.Obj == nil //nolint:staticcheck // Obj is enough within one file
}

// A context without an end is only the beginning of one that has: of a life that
// Close ends, or of a bound. Anything else loses the caller's wish to stop.
func TestNoContextWithoutAnEnd(t *testing.T) {
	each(t, func(s *source) {
		if !notMain(s) || s.made {
			return
		}
		ended := map[ast.Node]bool{}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !isName(sel.X, "context") {
				return true
			}
			if has("WithCancel WithCancelCause WithTimeout WithDeadline", sel.Sel.Name) && len(call.Args) > 0 {
				ended[call.Args[0]] = true
			}
			if sel.Sel.Name == "Background" && !ended[call] {
				t.Errorf("%s: context.Background without an end; take a context from the caller", s.at(n))
			}
			return true
		})
	})
}

func TestPurePackagesStartNoGoroutines(t *testing.T) {
	each(t, func(s *source) {
		if !isPure(s) {
			return
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: a goroutine in a pure package", s.at(n))
			case *ast.SelectStmt:
				t.Errorf("%s: a select in a pure package", s.at(n))
			}
			return true
		})
	})
}

// The loggers that we give to the Raft library and to Pebble must not return from
// Fatal and Panic: their state may be wrong, and going on could lose data.
func TestNothingPanicsButInvariants(t *testing.T) {
	each(t, func(s *source) {
		if !notTest(s) || s.made || s.dir == "internal/invariant" {
			return
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if d, ok := n.(*ast.FuncDecl); ok && d.Recv != nil && has("Fatal Fatalf Panic Panicf", d.Name.Name) {
				return false
			}
			if call, ok := n.(*ast.CallExpr); ok && isName(call.Fun, "panic") {
				t.Errorf("%s: panic; return an error, or state an invariant with internal/invariant", s.at(n))
			}
			return true
		})
	})
}

func TestNoInitFunctions(t *testing.T) {
	each(t, func(s *source) {
		if s.made || s.test {
			return
		}
		for _, decl := range s.ast.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
				t.Errorf("%s: init; make it a value that is passed in", s.at(d))
			}
		}
	})
}

// An error is examined with errors.Is and errors.As, never by its words.
func TestErrorsAreNotToldByTheirText(t *testing.T) {
	each(t, func(s *source) {
		if !notTest(s) || s.made {
			return
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.CallExpr:
				sel, ok := x.Fun.(*ast.SelectorExpr)
				if ok && isName(sel.X, "strings") && has("Contains HasPrefix HasSuffix EqualFold Index", sel.Sel.Name) {
					for _, arg := range x.Args {
						if isErrorText(arg) {
							t.Errorf("%s: strings.%s of an error's text; use errors.Is or errors.As", s.at(n), sel.Sel.Name)
						}
					}
				}
			case *ast.BinaryExpr:
				if (x.Op == token.EQL || x.Op == token.NEQ) && (isErrorText(x.X) && notEmpty(x.Y) || isErrorText(x.Y) && notEmpty(x.X)) {
					t.Errorf("%s: an error's text is compared; use errors.Is or errors.As", s.at(n))
				}
			}
			return true
		})
	})
}

// isErrorText says that an expression is a call x.Error() without arguments.
func isErrorText(x ast.Expr) bool {
	call, ok := x.(*ast.CallExpr)
	if !ok || len(call.Args) > 0 {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "Error"
}

// notEmpty says that an expression is not the empty string: whether an error says
// anything at all may be asked.
func notEmpty(x ast.Expr) bool {
	lit, ok := x.(*ast.BasicLit)
	return !ok || lit.Value != `""`
}

// A mark that something is left to do names the issue that will do it.
func TestMarksInCommentsNameAnIssue(t *testing.T) {
	todo := regexp.MustCompile(`\bTODO\b`)
	numbered := regexp.MustCompile(`\bTODO\(#\d+\)`)
	fix := regexp.MustCompile(`\b(FIX` + `ME|XXX|HACK)\b`)
	each(t, func(s *source) {
		for _, group := range s.ast.Comments {
			for _, c := range group.List {
				if todo.MatchString(c.Text) && !numbered.MatchString(c.Text) && s.dir != "test/tidy" {
					t.Errorf("%s: a TODO without an issue: TODO(#12): ...", s.at(c))
				}
				if fix.MatchString(c.Text) {
					t.Errorf("%s: %q is for what should not be committed", s.at(c), fix.FindString(c.Text))
				}
			}
		}
	})
}
