"""How it is shown: terminal, Markdown, HTML, MLflow."""
