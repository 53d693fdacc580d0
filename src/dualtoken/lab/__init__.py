"""What authors need rather than users: side-by-side benchmarks, growth, studies, the paper's tables, the demo."""
