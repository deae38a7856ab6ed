// Package report turns the figures of many trials into what people read: tables of medians, ratios
// beside the bars that they have to clear, a chart, and a page with all of it. It is pure: what it
// makes depends on the figures only.
package report
