"""Pictures on the host: files, figures, other sizes, blur kernels."""
