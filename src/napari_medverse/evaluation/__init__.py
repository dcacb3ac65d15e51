"""How good results are: metrics, baselines, and tables over folders of annotated scans."""
