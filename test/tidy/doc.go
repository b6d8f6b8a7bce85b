// Package tidy holds the rules of this code base that a machine can check, as
// tests: who imports whom, comments on what is exported, calls that are banned
// where they do harm, documents that point to what exists.
package tidy
