package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"dfs/internal/cli"
)

// A healthCode is one reason for which a cluster is not healthy. The masters give
// the code and what is the matter now; this is what it means in general.
type healthCode struct {
	code    string
	meaning string
	next    string
}

// healthCodes lists what a status can name; a test compares it with the masters'.
var healthCodes = []healthCode{
	{"MASTER_DOWN", "A master does not answer. A majority still works: nothing is lost and service goes on, but the next loss may end it.", "start dfs-master there again with its own folder; if its disk is lost, dfs master remove NAME and add an empty one"},
	{"MASTER_FULL", "The disk of a master has less free than its reserve. When it is the leader's, or those of so many that the others are no majority, nothing can be created or written; reads, deletes and settings go on.", "make room on that disk, or delete files"},
	{"MASTER_FEW", "Fewer masters than the cluster was made for: it survives fewer losses than planned.", "start the missing masters with --join"},
	{"NO_CHUNK_SERVERS", "No chunk server has joined: folders and names work, data cannot be written.", "start dfs-chunk with --masters on at least as many machines as the policy has copies"},
	{"CHUNKS_UNREADABLE", "Of some chunks no copy (of an erasure-coded policy: too few fragments) is on a server that is up: files that lie there cannot be read until one is back.", "bring the servers that are down back; dfs status names them"},
	{"REPAIRING", "Some chunks have fewer copies or fragments than their policy wants. What servers that are up lack is restored from the others, the most endangered first.", "nothing; when fragments wait for a server that is down, bring it back, or others take over after --repair-after of the masters"},
	{"SERVER_DOWN", "A chunk server does not answer. Its data is served from the other copies.", "start dfs-chunk there again with its own folders"},
	{"SERVER_MAINTENANCE", "A chunk server is down on purpose: others take over what it has only when the stated time is over.", "start dfs-chunk there again with its own folders in time; dfs servers maintenance NAME --end ends it"},
	{"SERVER_DRAINED", "A chunk server was drained and has no data that is needed.", "dfs servers remove NAME, or dfs servers resume NAME"},
	{"SERVER_DRAINING", "A chunk server is being drained: its data moves to the others, and it takes no new placement groups.", "wait; dfs servers resume NAME takes it back"},
	{"SERVER_SLOW", "A chunk server takes much longer than the others to write to its disks: readers and writers go on with others as far as they can, and what it lacks is restored there later.", "look at its disks and what else uses them"},
	{"DISK_HUNG", "A disk of a chunk server does not answer: nothing is asked of it until it does.", "look into the kernel's log there; replace the disk, or start dfs-chunk without its folder"},
	{"DISK_UNREADABLE", "A chunk server could not read one of its data folders and runs with the others: what was there is restored from other servers.", "look into the log of dfs-chunk there; replace the disk and start it again"},
	{"SERVER_FULL", "A chunk server has no free space above its reserve: it takes no new data; reads and deletes go on.", "delete files, or add servers or disks"},
	{"WAITING_FOR_CLIENTS", "Another master leads since a moment ago, and some mounts of before have not come to it: it answers nobody until they have told what they changed, or their leases have run out.", "nothing: it is over in some seconds"},
	{"PG_DEGRADED", "Some placement groups have fewer servers than their policy wants: data is safe, with less redundancy.", "bring the servers that are down back"},
	{"PG_UNWRITABLE", "Some placement groups have too few servers for writes: programs that write there wait.", "bring the servers that are down back"},
	{"POLICY_UNSATISFIED", "A policy in use wants more servers than the cluster has.", "add chunk servers"},
	{"BACKUP_OLD", "The masters copy the metadata to chunk servers every hour (dfs config get backup-every), and have not managed to for three times as long: if all masters' disks were lost now, what changed since would be lost with them.", "look at the reason in dfs status; dfs meta backup FILE makes a copy by hand"},
}

// healthView is the schema of `dfs health explain -o json`.
type healthView struct {
	Schema  string       `json:"schema"` // dfs.health/v1
	Code    string       `json:"code"`
	Meaning string       `json:"meaning"`
	Next    string       `json:"next"`
	Here    []reasonView `json:"here"` // what it is about in this cluster now
}

func newHealth(g *global) *cobra.Command {
	explain := &cobra.Command{
		Use:     "explain CODE",
		Short:   "What a health code means, its cause here, and what to do",
		Example: "  dfs health explain SERVER_DOWN",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := explainCode(args[0])
			if err != nil {
				return err
			}
			// Without a cluster the general meaning is still worth having.
			if status, err := g.fetchStatus(cmd.Context()); err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "the cause here is not known:", err)
			} else {
				for _, r := range status.Reasons {
					if r.Code == v.Code {
						v.Here = append(v.Here, r)
					}
				}
			}
			return g.emit(cmd, v, v.table(), nil)
		},
	}
	return cli.Group(&cobra.Command{Use: "health", Short: "Health codes"}, explain)
}

func explainCode(code string) (healthView, error) {
	code = strings.ToUpper(code)
	i := slices.IndexFunc(healthCodes, func(c healthCode) bool { return c.code == code })
	if i < 0 {
		var known []string
		for _, c := range healthCodes {
			known = append(known, c.code)
		}
		return healthView{}, cli.Usagef("no health code %s: there are %s", code, strings.Join(known, ", "))
	}
	c := healthCodes[i]
	return healthView{Schema: "dfs.health/v1", Code: c.code, Meaning: c.meaning, Next: c.next, Here: []reasonView{}}, nil
}

func (v healthView) table() table {
	t := table{columns: []string{"CODE", v.Code}, rows: [][]string{{"meaning", v.Meaning}, {"next", v.Next}}}
	for _, r := range v.Here {
		t.rows = append(t.rows, []string{"here", r.Message})
	}
	return t
}
