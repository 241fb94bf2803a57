"""``python run.py …`` from a clone does what the command ``ssl-transfer …`` does."""

from launchers.main import main

if __name__ == "__main__":
    main()
