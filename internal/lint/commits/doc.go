// Package commits checks the messages of commits against the rules of
// CONTRIBUTING.md.
//
//	problems := commits.Check("soci: Redact credentials\n\nWhy ...")
//
// The subject is imperative and has at most 72 characters, so that a log reads
// as a list of changes; one subject names one change. A check cannot know
// whether a verb is the right one. It refuses the forms that are never
// imperative: articles, pronouns, participles, and the third person.
package commits
