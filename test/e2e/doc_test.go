// Package e2e runs real processes on loopback under a real kernel mount, and
// takes them away in all the ways that machines go: kill -9, a pause, a full
// disk, everything at once.
//
// It needs root, /dev/fuse and the programs whose work it checks; what is missing
// is a failure with the name of the package to install, never a skip. Figures are
// scaled for a machine of two cores; -full runs those of the issue.
package e2e
