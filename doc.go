// Package dfs is the vocabulary of the file system: the identifiers, the
// attributes, the cluster map and the error numbers that every other package
// speaks of. It has no behaviour beyond encoding a fact about a value (which
// layout a chunk has, which placement group it is in), does no I/O and imports
// nothing else of this module.
package dfs
