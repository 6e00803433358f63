"""Names of the files of data sets: of splits, and of types of clips."""

# Names of a split in files and folders; the first is the one that the project uses.
SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("validation", "validate", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
SPLIT_NAMES = {name: split for split, names in SPELLINGS.items() for name in names}
MOVING = (".mp4", ".gif", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp")
CLIPS = (*MOVING, ".webp", ".png", ".jpg", ".jpeg", ".bmp")
