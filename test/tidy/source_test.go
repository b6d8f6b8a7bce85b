package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// module is the path of this module, and root its folder, seen from this one.
const (
	module = "dfs"
	root   = "../.."
)

// source is one Go file.
type source struct {
	name string // from the root: meta/rename.go
	dir  string // meta; "" is the root package
	test bool   // its name ends in _test.go
	made bool   // by a generator
	fset *token.FileSet
	ast  *ast.File
}

func (s *source) at(n ast.Node) string {
	return s.name + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

// imports are the import paths, with the name that each has in the file.
func (s *source) imports() map[string]string {
	names := map[string]string{}
	for _, spec := range s.ast.Imports {
		p, _ := strconv.Unquote(spec.Path.Value)
		name := path.Base(p)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[p] = name
	}
	return names
}

// files are the files of the repository, but for what is built or kept by tools.
var files = sync.OnceValues(func() ([]string, error) {
	var names []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name == "bin" || strings.HasPrefix(name, ".") && name != "." && name != ".ci" {
				return filepath.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() && name != ".git" { // which is a file in a work tree of git's
			names = append(names, filepath.ToSlash(name))
		}
		return nil
	})
	return names, err
})

func allFiles(t *testing.T) []string {
	t.Helper()
	names, err := files()
	if err != nil {
		t.Fatal(err)
	}
	return names
}

var sources = sync.OnceValues(func() ([]*source, error) {
	names, err := files()
	if err != nil {
		return nil, err
	}
	var all []*source
	for _, name := range names {
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "testdata/") {
			continue
		}
		s := &source{name: name, dir: strings.TrimPrefix(path.Dir(name), "."), test: strings.HasSuffix(name, "_test.go"), fset: token.NewFileSet()}
		if s.ast, err = parser.ParseFile(s.fset, filepath.Join(root, name), nil, parser.ParseComments); err != nil {
			return nil, err
		}
		s.made = ast.IsGenerated(s.ast)
		all = append(all, s)
	}
	return all, nil
})

// each calls fn with every Go file.
func each(t *testing.T, fn func(*source)) {
	t.Helper()
	all, err := sources()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("found no Go files")
	}
	for _, s := range all {
		fn(s)
	}
}

// text is a file's contents.
func text(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
