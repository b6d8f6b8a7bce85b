package tidy

import (
	"path"
	"strings"
	"testing"
)

// row says what packages may import of ours. A name that ends in /* stands for all
// below it.
type row struct {
	packages string // separated by spaces; "." is the root package
	may      string
}

// table says who may import whom; what it does not name is not allowed. The
// pictures in docs/architecture.md follow it.
var table = []row{
	{".", ""},
	{"internal/*", ""},
	{"proto/*", ""},
	{"placement gossip client/cache chunk/code chunk/record", "."},
	{"rpc", ". proto/*"},
	{"client/append", ". placement chunk/code rpc proto/chunkpb"},
	{"meta", ". placement internal/invariant"},
	{"meta/store", ". meta internal/disk"},
	{"meta/replica", ". meta meta/store proto/logpb internal/clock internal/disk"},
	{"meta/repair", ". meta placement"},
	{"meta/backup", ". meta"},
	// A server hands the operating system's disk to its store, and serves the admin
	// address.
	{"meta/server", ". meta meta/* gossip placement rpc proto/metapb proto/adminpb proto/chunkpb internal/clock internal/disk internal/admin internal/turn"},
	{"chunk", ". chunk/record internal/disk internal/invariant internal/turn"},
	{"chunk/scrub", ". chunk"},
	// proto/metapb: a chunk server tells the masters that it is there and what it holds.
	{"chunk/server", ". chunk chunk/* gossip placement rpc proto/chunkpb proto/metapb internal/disk internal/admin internal/turn"},
	// chunk/record: a client on the machine of a chunk server reads its files.
	{"client", ". client/* placement chunk/code chunk/record rpc proto/metapb proto/chunkpb internal/clock"},
	{"fuse", ". client internal/mountinfo"},
	{"cmd/*", ". chunk chunk/* client client/* fuse gossip internal/* meta meta/* placement proto/* rpc"},
}

// importers are the packages that alone may import something from outside.
var importers = map[string]string{
	"github.com/hashicorp/memberlist":   "gossip",
	"github.com/klauspost/reedsolomon":  "chunk/code",
	"github.com/cockroachdb/pebble":     "meta/store",
	"go.etcd.io/raft":                   "meta/replica",
	"github.com/hanwen/go-fuse":         "fuse",
	"google.golang.org/grpc":            "rpc meta/server chunk/server client client/append cmd/dfs proto/*",
	"github.com/prometheus":             "internal/admin rpc meta/server chunk/server client fuse cmd/*",
	"github.com/spf13":                  "internal/cli cmd/*",
	"google.golang.org/protobuf":        "rpc meta/replica meta/server chunk/server client proto/*",
	"google.golang.org/genproto":        "rpc",
	"go.yaml.in/yaml":                   "cmd/dfs",
	"golang.org/x/sync":                 "rpc meta/server chunk/server chunk client client/append",
	"golang.org/x/sys":                  "internal/clock internal/disk rpc client fuse cmd/*",
	"pgregory.net/rapid":                "", // tests only
	"github.com/anishathalye/porcupine": "", // tests only
	"github.com/rogpeppe/go-internal":   "",
	"github.com/cockroachdb/datadriven": "",
}

// has says whether a list of names holds the package, by name or by NAME/*.
func has(list, pkg string) bool {
	for name := range strings.FieldsSeq(list) {
		below, all := strings.CutSuffix(name, "/*")
		if name == pkg || all && strings.HasPrefix(pkg, below+"/") {
			return true
		}
	}
	return false
}

// mayImport says what the table allows a package; ok is false when no row names it.
func mayImport(pkg string) (may string, ok bool) {
	for _, r := range table {
		if has(r.packages, pkg) {
			return r.may, true
		}
	}
	return "", false
}

func TestPackagesImportOnlyWhatTheTableAllows(t *testing.T) {
	each(t, func(s *source) {
		pkg := s.dir
		if pkg == "" {
			pkg = "."
		}
		if s.test || strings.HasPrefix(pkg, "test/") {
			return
		}
		may, ok := mayImport(pkg)
		if !ok {
			t.Errorf("%s: the import table has no row for package %s", s.name, pkg)
			return
		}
		for p := range s.imports() {
			ours, isOurs := strings.CutPrefix(p, module+"/")
			if p == module {
				ours, isOurs = ".", true
			}
			// A folder below internal/NAME is a part of it.
			partOf := strings.HasPrefix(pkg, "internal/") && strings.HasPrefix(pkg, ours+"/")
			if isOurs && !partOf && !has(may, ours) {
				t.Errorf("%s imports %s; %s may import: %s", s.name, p, pkg, may)
			}
		}
	})
}

func TestTestPackagesAreImportedByTestsOnly(t *testing.T) {
	each(t, func(s *source) {
		if s.test || strings.HasPrefix(s.dir, "test/") {
			return
		}
		for p := range s.imports() {
			if strings.HasPrefix(p, module+"/test/") {
				t.Errorf("%s imports %s: only tests may", s.name, p)
			}
		}
	})
}

func TestParentsDoNotImportChildrenWhichImportThem(t *testing.T) {
	uses := map[string]bool{}
	each(t, func(s *source) {
		if s.test {
			return
		}
		for p := range s.imports() {
			uses[path.Join(module, s.dir)+" "+p] = true
		}
	})
	for use := range uses {
		from, to, _ := strings.Cut(use, " ")
		if uses[to+" "+from] {
			t.Errorf("%s and %s import each other", from, to)
		}
	}
}

// A dependency has one importer, so that it can be replaced there.
func TestDependenciesHaveTheirOneImporter(t *testing.T) {
	each(t, func(s *source) {
		if s.test || strings.HasPrefix(s.dir, "test/") {
			return
		}
		for p := range s.imports() {
			host, _, _ := strings.Cut(p, "/")
			if !strings.Contains(host, ".") {
				continue // the standard library or ours
			}
			known := false
			for prefix, allowed := range importers {
				if p != prefix && !strings.HasPrefix(p, prefix+"/") {
					continue
				}
				if known = true; !has(allowed, s.dir) {
					t.Errorf("%s imports %s, which only %s may", s.name, p, allowed)
				}
			}
			if !known {
				t.Errorf("%s imports %s: a new dependency wants an entry here and a record in docs/adr", s.name, p)
			}
		}
	})
}
